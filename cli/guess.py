"""Which form of output was asked for, by the words alone: an error may come before they parse.

Imports nothing, so that it serves a signal that comes before anything is there. Knows no option
but these; a test compares its tables with the registry.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMS = ("table", "json", "jsonl", "yaml", "csv", "junit", "github")
# The letters of options that take no value: others may follow them in one word (-qJ).
FLAGS = "CFJNQVhqvy"
TRUE = ("1", "true", "yes", "on")


def guess_emit(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Returns the form asked for, as far as it can be told; `table` where it is none."""
    wanted = env.get("BITNET_EMIT", "table")
    if env.get("BITNET_JSON", "").lower() in TRUE:
        wanted = "json"
    for index, token in enumerate(argv):
        after = argv[index + 1] if index + 1 < len(argv) else None
        if token == "--":  # what follows are words
            break
        if token == "--json":
            wanted = "json"
        elif token.startswith("--emit="):
            wanted = token.partition("=")[2]
        elif token == "--emit":
            wanted = wanted if after is None else after
        elif token.startswith("-") and not token.startswith("--"):
            wanted = _of_letters(token[1:], after) or wanted
    return wanted if wanted in FORMS else "table"


def _of_letters(letters: str, after: str | None) -> str | None:
    """What a cluster of letters asks for: -J, -qJ, -ejson, -qe json."""
    found = None
    for at, letter in enumerate(letters):
        if letter == "e":
            return letters[at + 1 :].removeprefix("=") or after or found
        if letter not in FLAGS:  # what follows is its value
            break
        if letter == "J":
            found = "json"
    return found
