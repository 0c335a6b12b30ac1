"""The help pages: of the program, a group, a command, and a few topics.

Text from the registry's table and from the args dataclasses; nothing is said twice. The
pages of the program and the groups import no args class, so that they come at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitnet_jax.core.errors import UsageError

from . import registry
from .route import close_to, near, or_else

if TYPE_CHECKING:
    import dataclasses

MODES = """\
every command takes
  --json             one record on stdout, nothing else (--emit yaml|csv|jsonl for others)
  -v, -q             say more (-vv: everything), or nothing but errors
  --no-input         never ask, for scripts
  --help             its options, their environment variables, and examples
`bitnet help exit-codes`, `settings` and `environment` tell what scripts rely on."""


def program() -> str:
    """Returns the page of `bitnet` alone: what to run first, then what there is."""
    lines = [f"bitnet: {registry.ABOUT}", "", "start here"]
    width = max(len(line) for line, _ in registry.FIRST_STEPS)
    lines += [f"  {line:<{width}}  {why}" for line, why in registry.FIRST_STEPS]
    lines += ["", "groups (`bitnet GROUP` lists its commands)"]
    for name, about in registry.GROUPS.items():
        lines.append(f"  {name:<7}  {about}{'' if _has_built(name) else ' (not built yet)'}")
    short = [(name, target) for (place, name), target in registry.ALIASES.items() if not place]
    lines += ["", "short forms"]
    lines += [f"  bitnet {name:<9}  = bitnet {' '.join(target)}" for name, target in short]
    return "\n".join([*lines, "", MODES]) + "\n"


def group(name: str) -> str:
    """Returns the page of a group: its first step, and its commands."""
    first, why = registry.GROUP_FIRST[name]
    lines = [f"bitnet {name}: {registry.GROUPS[name]}", "", "start here"]
    lines += [f"  {first}", f"      {why}"]
    commands = [command for command in registry.COMMANDS if command.group == name]
    aliases = {alias: to for (place, alias), to in registry.ALIASES.items() if place == name}
    width = max(len(word) for word in [*aliases, *(command.name for command in commands)])
    built = [f"  {c.name:<{width}}  {c.help}" for c in commands if c.target]
    planned = [f"  {c.name:<{width}}  {c.help}" for c in commands if not c.target]
    ready = {(c.group, c.name) for c in registry.built()}
    for alias, to in aliases.items():
        line = f"  {alias:<{width}}  = bitnet {' '.join(to)}"
        (built if to in ready else planned).append(line)
    for head, rows in (("commands", built), ("not built yet in this version", planned)):
        if rows:
            lines += ["", head, *rows]
    if built:
        lines += ["", f"`bitnet {name} COMMAND --help` shows options and examples."]
    return "\n".join(lines) + "\n"


def _has_built(name: str) -> bool:
    ready = [(command.group, command.name) for command in registry.built()]
    places = [group for group, _ in ready]
    return name in places + [place for (place, _), to in registry.ALIASES.items() if to in ready]


def not_built(command: registry.Command) -> str:
    """Returns the page of a command that is only announced."""
    words = registry.words(command)
    return f"bitnet {words}: {command.help}\n\nNot built yet in this version.\n"


def command(row: registry.Command, width: int) -> str:
    """Returns the page of a built command."""
    import dataclasses

    from .options import GlobalArgs

    module, cls = registry.load(row)
    words = registry.words(row)
    # A base class's fields come first in the dataclass; what is needed comes first on the page.
    own = sorted(
        dataclasses.fields(cls),
        key=lambda f: (not f.metadata.get("positional"), not f.metadata.get("needed")),
    )
    aliases = [
        f"bitnet {' '.join(alias).strip()}"
        for alias, target in registry.ALIASES.items()
        if target == (row.group, row.name)
    ]
    lines = [f"bitnet {words}: {row.help}"]
    if aliases:
        lines.append(f"also: {', '.join(aliases)}")
    lines += ["", f"usage: bitnet {words} {_usage(own)}".rstrip()]
    more = getattr(module, "DETAILS", "")
    if more:
        lines += ["", more.strip()]
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
        if meta.get("positional"):
            parts.append(value if meta.get("needed") else f"[{value}]")
        elif meta.get("needed"):
            parts.append(f"{long_name(field)} {value}")
    return " ".join([*parts, "[options]"])


def _option(field: dataclasses.Field, width: int) -> list[str]:
    """Returns an option's lines: its spellings, what it does, default, environment."""
    import textwrap
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
        notes.append("needed")
    default = _default(field) if takes_value else ""
    if default:
        notes.append(f"default: {default}")
    notes.append(f"env: {env_name(field)}")
    text = f"{meta['help']} [{'; '.join(notes)}]"
    body = textwrap.wrap(text, max(20, width - 10), break_long_words=False)
    return [f"  {names}", *(f"          {line}" for line in body)]


def _default(field: dataclasses.Field) -> str:
    from .fields import default_of

    value: Any = field.metadata.get("shown_default", default_of(field))
    return "" if value is None or value == [] else str(value)


def _exit_codes() -> str:
    from .exit_codes import MEANING

    lines = [f"  {code:>3}  {meaning}" for code, meaning in MEANING.items()]
    return "\n".join(["exit codes: what a script can rely on", "", *lines]) + "\n"


def _settings() -> str:
    return """\
settings: where an option's value comes from, first match wins

  1  the command line             --max-tokens 128
  2  the environment              BITNET_MAX_TOKENS=128
  3  a settings file              --settings FILE, or BITNET_SETTINGS
  4  the workspace                bitnet.toml, in this folder or one above it
  5  a profile                    --profile NAME, BITNET_PROFILE, or the default one
  6  the default, as `bitnet COMMAND --help` prints it

A file names options as the command line does; [group] and [group.command] narrow them:

  progress = "plain"
  [serve]
  max-tokens = 128
  [model.convert]
  encoding = "packed"

A name that no option has is an error (exit 78), with the nearest one that exists.
`bitnet dev config` shows what is set, and where; `bitnet dev profile` makes profiles.
"""


def _environment() -> str:
    import textwrap

    from .config import LIBRARY_ENV

    lines = []
    for name, what in LIBRARY_ENV.items():
        lines += [f"  {name}"]
        lines += textwrap.wrap(what, 88, initial_indent=" " * 10, subsequent_indent=" " * 10)
    return ENVIRONMENT.format(variables="\n".join(lines))


ENVIRONMENT = """\
environment: the variables that are read

every option is also a variable: BITNET_ and its long name, in capitals, - as _
  --max-tokens 128    BITNET_MAX_TOKENS=128
  --quiet             BITNET_QUIET=1 (1, true, yes, on; 0, false, no, off)
  -vv                 BITNET_VERBOSE=2
The command line wins over it; it wins over a settings file (`bitnet help settings`).
`bitnet COMMAND --help` names the variable of each option. An empty one counts as not set.

read by the library, also where there is no command line
{variables}

not ours, and heeded
  CXX
          the C++ compiler that builds the CPU kernels; default: c++, g++, clang++
  NO_COLOR, TERM=dumb
          no colour
  FORCE_COLOR
          colour in a pipe too
  CI
          nobody is there: no question is asked, and progress is lines
  HF_HOME, HF_HUB_CACHE
          where models that were fetched lie

Another variable that begins with BITNET_ is an error (exit 78), with the nearest one that exists.
"""

TOPICS = {"exit-codes": _exit_codes, "settings": _settings, "environment": _environment}


def _suggest(place: str, word: str) -> str:
    meant = [] if place else [f"bitnet help {name}" for name in near(word, TOPICS)]
    if meant or close_to(place, word):
        return or_else(meant or [f"bitnet {words}" for words in close_to(place, word)])
    return f"topics: {', '.join(TOPICS)}; groups: {', '.join(registry.GROUPS)}"


def topic(argv: list[str], width: int) -> str:
    """Returns the page that `bitnet help ...` asks for.

    Raises:
      UsageError: there is no such group, command or topic.
    """
    names = [word for word in argv if not word.startswith("-")]
    if not names:
        return program() + "\ntopics: " + ", ".join(f"bitnet help {t}" for t in TOPICS) + "\n"
    if names[0] in TOPICS:
        return TOPICS[names[0]]()
    if names[0] in registry.GROUPS and len(names) == 1:
        return group(names[0])
    place, name = (names[0], names[1]) if names[0] in registry.GROUPS else ("", names[0])
    row = registry.find(place, name)
    if row is None:
        raise UsageError(
            "cli.unknown_topic", f"no help on `{' '.join(names)}`", _suggest(place, name)
        )
    return command(row, width) if row.target else not_built(row)
