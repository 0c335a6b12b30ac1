"""Where a generation ends: stop strings over streamed text, and end ids.

`StopText` gives, for any way of cutting the text into pieces, what the plain
meaning gives on the whole: the text before the earliest stop string, that is
``text[: min(text.find(stop) for the stops found)]``. Knows nothing of tokens'
text or of where the pieces come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitnet_jax.core.errors import UsageError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024


@dataclass(frozen=True)
class StopRules:
    """What ends a generation. `strings` are non-empty and distinct; `ids` are ends."""

    strings: tuple[str, ...] = ()
    ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, strings: str | Iterable[str] | None = None, ids: Iterable[int] = ()) -> StopRules:
        """Returns checked rules; one string stands for a list of one.

        Raises:
          UsageError: ``stop.type``, ``stop.empty``, ``stop.too_many``, ``stop.too_long``.
        """
        items = [strings] if isinstance(strings, str) else list(strings or ())
        for item in items:
            if not isinstance(item, str):
                raise UsageError("stop.type", f"stop {item!r} is not a string")
            if not item:
                raise UsageError(
                    "stop.empty",
                    "a stop string is empty: it would match everywhere",
                    "leave it out",
                )
            if len(item) > MAX_STOP_CHARACTERS:
                raise UsageError(
                    "stop.too_long",
                    f"a stop string has {len(item)} characters; at most {MAX_STOP_CHARACTERS}",
                )
        if len(items) > MAX_STOPS:
            raise UsageError("stop.too_many", f"{len(items)} stop strings; at most {MAX_STOPS}")
        return cls(tuple(dict.fromkeys(items)), frozenset(int(id_) for id_ in ids))


class StopText:
    """Cuts streamed text before the earliest stop string.

    Text is let out as soon as no continuation can make it part of a stop; what
    is held is always shorter than the longest stop.

    Attributes:
      matched: the stop string that ended the text, or None so far.
    """

    def __init__(self, stops: Iterable[str]):
        # Shortest first: of two stops that start at one place the shorter is complete first,
        # so naming it keeps `matched` independent of how the text was cut.
        self._stops = sorted(stops, key=len)
        self._reach = max((len(stop) for stop in self._stops), default=1) - 1
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """Returns the text that is now certain; empty once `matched` is set."""
        if self.matched is not None:
            return ""
        self._held += piece
        found = self._earliest()
        open_from = self._first_open()
        if found is not None and found[0] <= open_from:
            # No unfinished candidate starts earlier: nothing can change the cut.
            return self._cut(*found)
        text, self._held = self._held[:open_from], self._held[open_from:]
        return text

    def finish(self) -> str:
        """Returns what was held, since the text ends here; cuts at a stop inside it."""
        found = self._earliest()
        if found is not None:
            return self._cut(*found)
        text, self._held = self._held, ""
        return text

    def _cut(self, start: int, stop: str) -> str:
        text, self._held, self.matched = self._held[:start], "", stop
        return text

    def _earliest(self) -> tuple[int, str] | None:
        found = [(self._held.find(stop), stop) for stop in self._stops]
        # min keeps the first of equals, and the stops are sorted by length.
        return min((f for f in found if f[0] >= 0), key=lambda f: f[0], default=None)

    def _first_open(self) -> int:
        """Returns where the first unfinished stop may begin, else the end of the text."""
        end = len(self._held)
        for start in range(max(0, end - self._reach), end):
            tail = self._held[start:]
            if any(len(stop) > len(tail) and stop.startswith(tail) for stop in self._stops):
                return start
        return end
