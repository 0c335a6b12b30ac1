"""`bitnet dev config`: the settings in force, where each comes from, and how to change one."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Any, Literal, Optional

from bitnet_jax.core.errors import CannotCreate, NoInput, UsageError, did_you_mean

from ...context import Context
from ...fields import option
from ...options import record_force_option
from ...result import CommandResult, Pairs, Section, Text, show, table_of

EXAMPLES = (
    "bitnet dev config",
    "bitnet dev config list serve.generate",
    "bitnet dev config get progress",
    "bitnet dev config set serve.generate.max-tokens 128",
)

DETAILS = """\
Actions:
  list [COMMAND]   what is set, and where; with a command, every option of it
  get NAME         one setting: what each layer says of it, the strongest first
  set NAME VALUE   writes it into the workspace's bitnet.toml, or with --to profile into the
                   profile in force; [...] as in ["a", "b"] is a list
  unset NAME       takes it out again
NAME is an option for every command that has it (max-tokens), for those of a group
(serve.max-tokens) or for one (serve.generate.max-tokens). `bitnet help settings` tells which
layer wins."""


@dataclass
class ConfigArgs:
    """Options of `bitnet dev config`."""

    action: Literal["list", "get", "set", "unset"] = option(
        positional=True, default="list", help="what to do"
    )
    name: Optional[str] = option(positional=True, metavar="NAME", help="the setting, or a command")
    value: Optional[str] = option(positional=True, metavar="VALUE", help="what to set it to")
    to: Literal["workspace", "profile"] = option(
        default="workspace", help="which file `set` and `unset` change"
    )
    force: bool = record_force_option()


def run(args: ConfigArgs, ctx: Context) -> CommandResult:
    from ...settings_view import told_of_profile

    return told_of_profile(ACTIONS[args.action](args, ctx), ctx.streams.env, ctx.cwd)


def _view(ctx: Context):
    from ...settings_view import View

    # Which files are read can be said on the line; the rest of it is about this very command.
    typed = {
        name: ctx.settings[name].value
        for name in ("settings", "profile")
        if ctx.settings[name].origin == "command line"
    }
    return View(typed, ctx.streams.env, ctx.cwd)


def _list(args: ConfigArgs, ctx: Context) -> CommandResult:
    from ... import registry

    view = _view(ctx)
    data: dict[str, Any] = {"files": view.files(), "command": None}
    head = [(name.replace("_", " "), value) for name, value in data["files"].items()]
    if args.name is None:
        data["settings"] = view.everywhere()
        rows = [{**row, "commands": _for(row)} for row in data["settings"]]
        columns = ["name", "value", "origin", "commands"]
    else:
        words = args.name.replace(".", " ").strip()
        built = {registry.words(command): command for command in registry.built()}
        if words not in built:
            raise UsageError(
                "settings.unknown_command",
                f"there is no command `{words}` to list the settings of",
                did_you_mean(words, built),
            )
        data["command"] = words
        data["settings"] = rows = view.of(built[words])
        columns = ["name", "value", "origin"]
    sections: list[Section] = [Pairs(head, title="where settings come from")]
    if rows:
        sections.append(
            table_of(rows, columns, title=f"settings of {data['command'] or 'any command'}")
        )
    else:
        sections.append(Text("Every setting is at its default."))
    return CommandResult(data=data, rows="settings", sections=sections)


def _for(row: dict[str, Any]) -> str:
    return ", ".join(row["commands"]) or "every command that has it"


def _get(args: ConfigArgs, ctx: Context) -> CommandResult:
    from ...config import NOT_IN_FILES
    from ...settings_edit import split

    place, name = split(_needed(args.name, "NAME", args), frozenset())
    rows = _view(ctx).layers(place, name)
    if not rows:
        raise NoInput("settings.unread", f"no command that is built reads `{args.name}`")
    shown = [
        {"layer": row["layer"], "value": row["value"], "origin": row["origin"], "for": _for(row)}
        for row in rows
    ]
    values = [row["value"] for row in rows if row["in_force"]]
    data = {"name": args.name, "value": values[0], "layers": rows}
    if name in NOT_IN_FILES:
        ctx.say(f"`{name}` can only be typed, or stand in the environment")
    return CommandResult(data=data, rows="layers", sections=[table_of(shown)])


def _set(args: ConfigArgs, ctx: Context) -> CommandResult:
    from ... import profiles, settings_edit, settings_file
    from ...config import NOT_IN_FILES

    dotted = _needed(args.name, "NAME", args)
    value = settings_edit.value_of(dotted, _needed(args.value, "VALUE", args), NOT_IN_FILES)
    path, but, check = _target(args, ctx, make=True)
    place, name = settings_edit.split(dotted, but)
    if name == "profile" and value != profiles.NONE:
        profiles.find(value, "to set it", ctx.streams.env)
    if check is not None:
        check(name, value, str(path))
    text = settings_file.read(path).text if path.exists() else ""
    settings_edit.rewrite(path, settings_edit.put(text, dotted, value))
    result = CommandResult(data={"file": str(path), "name": dotted, "value": value})
    result.sections = [Text(f"{path}: {dotted} = {show(value)}")]
    for row in _view(ctx).layers(place, name):
        if row["in_force"] and not row["origin"].startswith(str(path)):
            result.warnings.append(
                f"{row['origin']} says {show(row['value'])}, and wins over it ({_for(row)})"
            )
    return result


def _unset(args: ConfigArgs, ctx: Context) -> CommandResult:
    from ... import settings_edit, settings_file

    dotted = _needed(args.name, "NAME", args)
    path, but, _ = _target(args, ctx, make=False)
    settings_edit.split(dotted, but)
    text = settings_edit.drop(settings_file.read(path).text, dotted) if path.exists() else None
    if text is None:
        raise NoInput(
            "settings.not_set", f"`{path}` does not set `{dotted}`", "`bitnet dev config` lists"
        )
    settings_edit.rewrite(path, text)
    return CommandResult(
        data={"file": str(path), "name": dotted}, sections=[Text(f"{path}: {dotted} is gone")]
    )


def _target(args: ConfigArgs, ctx: Context, *, make: bool):
    """Returns the file to change, the names that it may not hold, and the check of a value."""
    from ... import config

    if args.to == "workspace":
        path = config.find_workspace(ctx.cwd) or ctx.cwd / config.WORKSPACE_FILE
        return path, config.NOT_IN_FILES, config.check_workspace
    chosen = _view(ctx).files()["profile_file"]
    if chosen is None:
        raise CannotCreate(
            "settings.no_profile",
            "no profile is in force that could be changed",
            "name one: --profile NAME (`bitnet dev profile create NAME` makes it)",
        )
    from pathlib import Path

    return Path(chosen), config.NOT_IN_PROFILES, config.check_profile


def _needed(value: Optional[str], what: str, args: ConfigArgs) -> str:
    if value is None:
        raise UsageError(
            "cli.missing_option",
            f"`bitnet dev config {args.action}` needs {what}",
            "`bitnet dev config --help` shows what each action takes",
        )
    return value


ACTIONS = {"list": _list, "get": _get, "set": _set, "unset": _unset}
