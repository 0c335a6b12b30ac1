"""The help pages: of the program, a group, a command; `bitnet help` finds the one meant.

Text from the registry's table and from the args dataclasses; nothing is said twice. The
pages of the program and the groups import no args class, so that they come at once. What holds
for every command stands in `topics`; words that are no page's name are looked for by `search`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitnet_jax.core.errors import UsageError

from . import registry, topics
from .layout import columns, fill, reflow
from .route import HELP_FLAGS, close_to, near, or_else
from .topics import TOPICS

if TYPE_CHECKING:
    import dataclasses

MODES = (
    ("--json", "one record on stdout, nothing else (--emit yaml|csv|jsonl for others)"),
    ("-v, -q", "say more (-vv: everything), or nothing but errors"),
    ("--no-input", "never ask, for scripts"),
    ("--help", "its options, their environment variables, and examples"),
)
LATER = "not built yet in this version"


def program(width: int) -> str:
    """Returns the page of `bitnet` alone: what to run first, then what there is."""
    lines = [*fill(f"bitnet: {registry.ABOUT}", width), "", "start here"]
    lines += columns(registry.FIRST_STEPS, width)
    lines += ["", "groups (see `bitnet GROUP`)"]
    about = registry.GROUPS.items()
    marked = [(g, text + ("" if _has_built(g) else " (not built yet)")) for g, text in about]
    lines += columns(marked, width)
    short = [(name, target) for (place, name), target in registry.ALIASES.items() if not place]
    lines += ["", "short forms"]
    lines += columns([(f"bitnet {name}", f"= bitnet {' '.join(to)}") for name, to in short], width)
    lines += ["", "every command takes", *columns(MODES, width), "", "more"]
    lines += columns(
        [
            ("bitnet help TOPIC", ", ".join(TOPICS)),
            ("bitnet help WORD", "the commands, options, topics and errors that it occurs in"),
        ],
        width,
    )
    return "\n".join(lines) + "\n"


def group(name: str, width: int) -> str:
    """Returns the page of a group: its first step, and its commands."""
    first, why = registry.GROUP_FIRST[name]
    lines = [*fill(f"bitnet {name}: {registry.GROUPS[name]}", width), "", "start here"]
    lines += [f"  {first}", *fill(why, width, " " * 6)]
    commands = [command for command in registry.COMMANDS if command.group == name]
    aliases = {alias: to for (place, alias), to in registry.ALIASES.items() if place == name}
    built = [(c.name, c.help) for c in commands if c.target]
    planned = [(c.name, c.help) for c in commands if not c.target]
    ready = {(c.group, c.name) for c in registry.built()}
    for alias, to in aliases.items():
        (built if to in ready else planned).append((alias, f"= bitnet {' '.join(to)}"))
    for head, rows in (("commands", built), (LATER, planned)):
        if rows:
            lines += ["", head, *columns(rows, width)]
    lines += ["", *fill(f"`bitnet {name} COMMAND --help` shows options and examples.", width)]
    return "\n".join(lines) + "\n"


def _has_built(name: str) -> bool:
    ready = [(command.group, command.name) for command in registry.built()]
    places = [group for group, _ in ready]
    return name in places + [place for (place, _), to in registry.ALIASES.items() if to in ready]


def command(row: registry.Command, width: int) -> str:
    """Returns the page of a command, built or not."""
    import dataclasses

    from .options import GlobalArgs

    module, cls = registry.load(row)
    words = registry.words(row)
    # What is needed comes first on the page, and what several commands share comes last: a base
    # class's fields come first in the dataclass.
    own = sorted(
        dataclasses.fields(cls),
        key=lambda f: (
            not f.metadata.get("positional"),
            not f.metadata.get("needed"),
            f.name not in vars(cls).get("__annotations__", ()),
        ),
    )
    aliases = [
        f"bitnet {' '.join(alias).strip()}"
        for alias, target in registry.ALIASES.items()
        if target == (row.group, row.name)
    ]
    lines = fill(f"bitnet {words}: {row.help}", width)
    if aliases:
        lines += fill(f"also: {', '.join(aliases)}", width)
    if row.target is None:
        told = f"{LATER.capitalize()}: it checks its options, and ends with exit code 69."
        lines += ["", *fill(told, width)]
    lines += ["", *fill(f"usage: bitnet {words} {_usage(own)}", width)]
    more = getattr(module, "DETAILS", "")
    if more:
        lines += ["", *reflow(more, width)]
    if own:
        lines += ["", "options"]
    lines += [line for field in own for line in _option(field, width)]
    lines += ["", "options of every command"]
    lines += [line for f in dataclasses.fields(GlobalArgs) for line in _option(f, width)]
    lines += ["  -h, --help", "", "examples"]
    lines += [f"  {example}" for example in module.EXAMPLES]
    return "\n".join(lines) + "\n"


def _usage(fields: list[dataclasses.Field]) -> str:
    from .fields import long_name

    parts = []
    for field in fields:
        meta = field.metadata
        value = meta.get("metavar") or field.name.upper()
        if meta.get("repeat") and meta.get("positional"):
            value += " ..."
        if meta.get("positional"):
            parts.append(value if meta.get("needed") else f"[{value}]")
        elif meta.get("needed"):
            parts.append(f"{long_name(field)} {value}")
    return " ".join([*parts, "[options]"])


def _option(field: dataclasses.Field, width: int) -> list[str]:
    """Returns an option's lines: its spellings, what it does, default, environment."""
    import typing

    from .fields import env_name, long_name, spellings

    meta = field.metadata
    shorts = [name for name in spellings(field) if not name.startswith("--")]
    others = [name for name in spellings(field) if name.startswith("--")]
    names = ", ".join([*shorts, long_name(field), *(n for n in others if n != long_name(field))])
    takes_value = not (field.type is bool or meta.get("count"))
    if takes_value:
        value = meta.get("metavar") or field.name.upper().replace("_", "-")
        names += f" [{value}]" if meta.get("nargs") == "?" else f" {value}"
    choices = meta.get("choices")
    if typing.get_origin(field.type) is typing.Literal:
        choices = typing.get_args(field.type)
    notes = []
    if choices:
        notes.append("one of: " + ", ".join(map(str, choices)))
    if meta.get("needed"):
        others = [f"--{name.replace('_', '-')}" for name in meta.get("unless", ())]
        notes.append("needed" + (f" without {' or '.join(others)}" if others else ""))
    default = _default(field) if takes_value else ""
    if default:
        notes.append(f"default: {default}")
    notes.append(f"env: {env_name(field)}")
    later = "" if meta.get("built", True) else "(not built yet) "
    text = f"{later}{meta['help']} [{'; '.join(notes)}]"
    return [*_names(names, width), *fill(text, width, " " * 10)]


def _names(names: str, width: int) -> list[str]:
    """Returns the spellings: one line, or the rest a little to the right."""
    first, *rest = fill(names, width - 4)
    return [f"  {first}", *(f"    {line}" for line in rest)]


def _default(field: dataclasses.Field) -> str:
    from .fields import default_of

    value: Any = field.metadata.get("shown_default", default_of(field))
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _suggest(place: str, word: str) -> str:
    meant = [] if place else [f"bitnet help {name}" for name in near(word, TOPICS)]
    if meant or close_to(place, word):
        return or_else(meant or [f"bitnet {words}" for words in close_to(place, word)])
    return f"topics: {', '.join(TOPICS)}; groups: {', '.join(registry.GROUPS)}"


def found(argv: list[str], width: int) -> str:
    """Returns the page that `bitnet help ...` asks for.

    Raises:
      UsageError: there is no such group, command or topic, and the words occur nowhere.
    """
    words = [word for word in argv if word.strip() and word not in (*HELP_FLAGS, "--")]
    if not words:
        about = [(f"bitnet help {name}", topic.about) for name, topic in TOPICS.items()]
        return "\n".join([program(width), "topics", *columns(about, width)]) + "\n"
    if len(words) == 1 and (name := topics.find(words[0])):
        return topics.page(name, width)
    if len(words) == 1 and words[0] in registry.GROUPS:
        return group(words[0], width)
    place, word = (words[0], words[1]) if words[0] in registry.GROUPS else ("", words[0])
    row = registry.find(place, word)
    if row is not None and len(words) == 1 + bool(place):
        return command(row, width)
    from .search import search

    page = search([word.strip("`") for word in words], width)
    if page is None:
        raise UsageError(
            "cli.unknown_topic", f"no help on `{' '.join(words)}`", _suggest(place, word)
        )
    return page
