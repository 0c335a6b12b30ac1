"""From the words typed to the command meant.

Finds the group and the command among options that may stand before, between and after them;
suggests the nearest name for a word it does not know. Parses no option's value.
"""

from __future__ import annotations

import difflib
from collections import namedtuple
from collections.abc import Iterable

from bitnet_jax.core.errors import UsageError

from . import registry

Route = namedtuple("Route", "kind group command argv")
Route.__doc__ = (
    """`kind` is "guide", "group", "help", "version" or "command"; `argv` is the rest."""
)

HELP_FLAGS = ("-h", "--help")
VERSION_FLAGS = ("-V", "--version")


def route(argv: list[str]) -> Route:
    """Returns what `argv` asks for.

    Raises:
      UsageError: a group, command or leading option is not known.
    """
    first, index, leading = _next_word(argv, 0)
    if any(token in VERSION_FLAGS for token in leading):
        return Route("version", None, None, [])
    asks_help = any(token in HELP_FLAGS for token in leading)
    if first is None:
        if leading and not asks_help:
            raise UsageError("cli.no_command", "no command was given", "`bitnet --help` lists them")
        return Route("guide", None, None, [])
    if first == "help":
        return Route("help", None, None, argv[index + 1 :])
    if first in registry.names_in(""):
        rest = leading + argv[index + 1 :]
        return Route("command", "", registry.find("", first), rest)
    if first not in registry.GROUPS:
        raise UsageError("cli.unknown_group", f"no command `{first}`", suggest("", first))

    second, at, between = _next_word(argv, index + 1)
    leading += between
    if second is None:
        if any(token not in HELP_FLAGS for token in leading):
            raise UsageError(
                "cli.no_command",
                f"no command of `{first}` was given",
                f"`bitnet {first} --help` lists them",
            )
        return Route("group", first, None, [])
    command = registry.find(first, second)
    if command is None:
        raise UsageError(
            "cli.unknown_command", f"no command `{first} {second}`", suggest(first, second)
        )
    return Route("command", first, command, leading + argv[at + 1 :])


def _next_word(argv: list[str], start: int) -> tuple[str | None, int, list[str]]:
    """Returns the next word that is no option, its index, and the options passed over."""
    index = start
    while index < len(argv):
        token = argv[index]
        if not token.startswith("-") or token == "-":
            return token, index, argv[start:index]
        index += 1 if token in HELP_FLAGS + VERSION_FLAGS else _width(token)
    return None, index, argv[start:index]


def _width(token: str) -> int:
    """Returns how many words a leading option takes; it must be one that every command has."""
    from .fields import close_options, option_strings
    from .options import GlobalArgs

    known = option_strings(GlobalArgs)
    name = token.partition("=")[0]
    if name.startswith("--"):
        field = known.get(name)
    else:  # -vv, -ejson
        field = known.get(name[:2])
    if field is None:
        close = close_options(name, known)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise UsageError(
            "cli.unknown_option",
            f"option `{name}` before the command is not one that every command has",
            f"{hint}the options of a command stand after it: `bitnet model inspect --show-layers`",
        )
    takes_value = not (field.type is bool or field.metadata.get("count"))
    whole = "=" in token or (not name.startswith("--") and len(token) > 2)
    return 2 if takes_value and not whole else 1


def suggest(group: str, word: str) -> str:
    """Returns the hint for an unknown `word` after `group` ("" is the first word)."""
    close = close_to(group, word)
    if group == "" and any(sign in word for sign in "./"):
        return f"to look into a model: `bitnet model inspect {word}`"
    if close:
        return or_else([f"bitnet {words}" for words in close])
    return f"`{registry.PROGRAM} {group}".rstrip() + "` lists what there is"


def or_else(lines: list[str]) -> str:
    return "did you mean " + " or ".join(f"`{line}`" for line in lines) + "?"


def near(word: str, known: Iterable[str]) -> list[str]:
    """Returns at most two of `known` that look like `word`: stricter than for longer names.

    Words of commands are short, and a pair of short words is soon half alike.
    """
    return difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)


def close_to(group: str, word: str) -> list[str]:
    """Returns the commands and groups that an unknown `word` after `group` may have meant."""
    spelled = {name: f"{group} {name}".strip() for name in registry.names_in(group)}
    if group == "":
        spelled.update({name: name for name in registry.GROUPS})
    # The same name in another group is worth more than a similar one in this group.
    elsewhere = [command for command in registry.COMMANDS if command.name == word]
    elsewhere.sort(key=lambda command: command.target is None)
    close = [registry.words(command) for command in elsewhere]
    close = close or [spelled[name] for name in near(word, spelled)]
    if not close:
        others = {command.name: registry.words(command) for command in registry.COMMANDS}
        close = [others[name] for name in near(word, others)]
    return close


def having(spelling: str) -> list[str]:
    """Returns the commands that have an option of this spelling, those that are built first."""
    from .fields import option_strings

    rows = sorted(registry.COMMANDS, key=lambda command: command.target is None)
    found = [row for row in rows if spelling in option_strings(registry.load(row)[1])]
    return [registry.words(row) for row in found[:3]]
