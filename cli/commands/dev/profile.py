"""`bitnet dev profile`: named sets of settings, kept in this user's config folder."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Literal, Optional

from bitnet_jax.core.errors import UsageError

from ...context import Context
from ...fields import option
from ...options import force_option
from ...result import CommandResult, Text, show, table_of

EXAMPLES = (
    "bitnet dev profile",
    "bitnet dev profile create laptop --set progress=plain --set serve.max-tokens=128",
    "bitnet dev profile default none",
)

DETAILS = """\
Actions:
  list             the profiles there are, and which is the default
  show NAME        what it sets
  create NAME      a new one, with the --set given
  default [NAME]   use it wherever no other is named; `none` for no default
  delete NAME      remove it
A profile is chosen by --profile NAME, BITNET_PROFILE, or `profile = "NAME"` in a bitnet.toml.
`bitnet dev config set ... --to profile --profile NAME` changes one."""


@dataclass
class ProfileArgs:
    """Options of `bitnet dev profile`."""

    action: Literal["list", "show", "create", "default", "delete"] = option(
        positional=True, default="list", help="what to do"
    )
    name: Optional[str] = option(positional=True, metavar="NAME", help="the profile")
    set: list[str] = option(
        default_factory=list,
        type=str,
        repeat=True,
        metavar="NAME=VALUE",
        help="a setting of the new profile; may be repeated",
    )
    force: bool = force_option("replace a profile that exists")


def run(args: ProfileArgs, ctx: Context) -> CommandResult:
    if args.set and args.action != "create":
        raise UsageError(
            "cli.clash",
            f"--set goes with `create`, not with `{args.action}`",
            "`bitnet dev config set NAME VALUE --to profile --profile NAME` changes a profile",
        )
    from ...settings_view import told_of_profile

    return told_of_profile(ACTIONS[args.action](args, ctx), ctx.streams.env, ctx.cwd)


def _list(args: ProfileArgs, ctx: Context) -> CommandResult:
    from ... import profiles

    env = ctx.streams.env
    folder, chosen = profiles.folder(env), profiles.default(env)
    rows = [
        {
            "name": name,
            "default": chosen is not None and name == chosen[0],
            "file": str(profiles.file_of(name, env)),
        }
        for name in profiles.names(env)
    ]
    data = {"folder": str(folder), "default": chosen[0] if chosen else None, "profiles": rows}
    if not rows:
        text = f"no profiles in {folder}; `bitnet dev profile create NAME` makes one"
        return CommandResult(data=data, rows="profiles", sections=[Text(text)])
    return CommandResult(data=data, rows="profiles", sections=[table_of(rows)])


def _show(args: ProfileArgs, ctx: Context) -> CommandResult:
    from ... import config, profiles, settings_file

    name = _needed(args)
    path = profiles.find(name, "to show it", ctx.streams.env)
    found = settings_file.entries(
        settings_file.read(path),
        settings_file.names_by_command(),
        but=config.NOT_IN_PROFILES,
        check=config.check_profile,
    )
    rows = [{"name": e.dotted, "value": e.value, "origin": e.where} for e in found]
    data = {"name": name, "file": str(path), "settings": rows}
    if not rows:
        return CommandResult(data=data, rows="settings", sections=[Text(f"{path} sets nothing")])
    return CommandResult(data=data, rows="settings", sections=[table_of(rows)])


def _create(args: ProfileArgs, ctx: Context) -> CommandResult:
    from ... import config, profiles, settings_edit

    name, env = _needed(args), ctx.streams.env
    path = profiles.file_of(name, env)
    text, values = profiles.TEMPLATE.format(name=name), {}
    for pair in args.set:
        dotted, equals, given = pair.partition("=")
        if not equals:
            raise UsageError("settings.value", f"--set `{pair}` is not NAME=VALUE", "--set seed=1")
        value = settings_edit.value_of(dotted, given, config.NOT_IN_PROFILES)
        config.check_profile(settings_edit.split(dotted, frozenset())[1], value, str(path))
        text, values[dotted] = settings_edit.put(text, dotted, value), value
    profiles.create(name, text, env, force=args.force)
    lines = [f"{path}", *(f"  {dotted} = {show(value)}" for dotted, value in values.items())]
    lines += ["", f"use it with --profile {name}, or always: bitnet dev profile default {name}"]
    data = {"name": name, "file": str(path), "settings": values}
    return CommandResult(data=data, sections=[Text("\n".join(lines))])


def _default(args: ProfileArgs, ctx: Context) -> CommandResult:
    from ... import profiles

    env = ctx.streams.env
    if args.name is None:
        chosen = profiles.default(env)
        name = chosen[0] if chosen else None
        said = f"the default profile is `{name}`" if name else "there is no default profile"
        return CommandResult(data={"default": name}, sections=[Text(said)])
    if args.name == profiles.NONE:
        profiles.set_default(None, env)
        return CommandResult(
            data={"default": None}, sections=[Text("there is no default profile now")]
        )
    profiles.find(args.name, "to make it the default", env)
    profiles.set_default(args.name, env)
    return CommandResult(
        data={"default": args.name}, sections=[Text(f"the default profile is `{args.name}` now")]
    )


def _delete(args: ProfileArgs, ctx: Context) -> CommandResult:
    from ... import profiles

    name, env = _needed(args), ctx.streams.env
    chosen = profiles.default(env)
    path = profiles.delete(name, env)
    was_default = chosen is not None and chosen[0] == name
    said = f"removed {path}" + ("; there is no default profile now" if was_default else "")
    return CommandResult(
        data={"name": name, "file": str(path), "was_default": was_default}, sections=[Text(said)]
    )


def _needed(args: ProfileArgs) -> str:
    if args.name is None:
        raise UsageError(
            "cli.missing_option",
            f"`bitnet dev profile {args.action}` needs the NAME of a profile",
            "`bitnet dev profile` lists them",
        )
    return args.name


ACTIONS = {
    "list": _list,
    "show": _show,
    "create": _create,
    "default": _default,
    "delete": _delete,
}
