"""Errors with a stable code, the words for a person, a hint, and an exit code.

Every failure that a user can cause is one of these. The class says how a script
should react (its `exit_code`); the `code` says what happened, and never changes
its meaning once published (docs/errors.md lists them). Knows nothing of the
command line: `cli` renders what stands here.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence


class BitnetError(Exception):
    """Base of all errors this package raises on purpose.

    Attributes:
      code: stable dotted identifier, for example ``model.scale_ambiguous``.
      message: one sentence: what was asked, and what was found.
      hint: what to do about it, or None.
      others: what was found wrong beside it, told after it (`Faults`).
    """

    exit_code = 70
    others: Sequence[BitnetError] = ()

    def __init__(self, code: str, message: str, hint: str | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"error[{self.code}]: {self.message}"
        return f"{text}\n\nhint: {self.hint}" if self.hint else text

    def __reduce__(self):
        # Exception's own __reduce__ would call __init__ with the message alone.
        return type(self), (self.code, self.message, self.hint)


class CheckFailed(BitnetError):
    """A validation, tolerance or regression check did not hold."""

    exit_code = 1


class UsageError(BitnetError):
    """The request itself is malformed: an unknown option, a wrong argument."""

    exit_code = 2


class BadData(BitnetError):
    """The input exists and is not what it should be."""

    exit_code = 65


class NoInput(BitnetError):
    """An input that was named does not exist."""

    exit_code = 66


class Unavailable(BitnetError):
    """A device, an extra, a compiler, memory or an endpoint is missing."""

    exit_code = 69


class InternalError(BitnetError):
    """A bug of ours: an invariant that must hold does not."""

    exit_code = 70


class CannotCreate(BitnetError):
    """The output exists already, or would lose precision."""

    exit_code = 73


class IOFailure(BitnetError):
    """The operating system refused to read or write (disk full, I/O error)."""

    exit_code = 74


class Resumable(BitnetError):
    """Stopped, and can go on later; or another process holds the lock."""

    exit_code = 75


class PermissionDenied(BitnetError):
    """The operating system denies access."""

    exit_code = 77


class ConfigError(BitnetError):
    """A settings or recipe file is wrong."""

    exit_code = 78


class Faults:
    """Several faults of one thing, gathered so that all can be told at once."""

    def __init__(self, kind: type[BitnetError]):
        self._kind, self._found = kind, list[BitnetError]()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Keeps an error of the kind that the block raises; what follows the block goes on."""
        try:
            yield
        except self._kind as error:
            self.add(error)

    def add(self, error: BitnetError) -> None:
        """Keeps an error."""
        self._found += [error, *error.others]

    def raise_any(self) -> None:
        """Raises the first that was gathered, with the others beside it."""
        if not self._found:
            return
        first, *others = self._found
        first.others = others
        raise first


_SHOWN = 80
_COMPARED, _LONGEST_WORD = 4096, 200


def shown(value: object) -> str:
    """A value that a stranger chose, for a message: as `repr`, and never long.

    Half a surrogate pair, a control character and a nesting without end all have a `repr`
    that can be printed, or are named instead.
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of thousands of digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def few(names: Sequence[str]) -> str:
    """The first of many names, for a message, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"`{name[:120]}`" for name in names[:5]) + more


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Returns the known words closest to `word`, best first (may be empty).

    Both may come from a stranger's file: what is long, or among very many, is not compared,
    since that takes the product of the lengths, and has no typing error in it.
    """
    few = [name for name in itertools.islice(known, _COMPARED) if len(name) <= _LONGEST_WORD]
    return difflib.get_close_matches(word[:_LONGEST_WORD], few, n=limit, cutoff=0.5)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns a hint naming the closest known words, else listing them all."""
    known = list(known)
    close = nearest(word, known)
    if close:
        return "did you mean " + " or ".join(f"`{name}`" for name in close) + "?"
    return "known: " + ", ".join(sorted(known))
