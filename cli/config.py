"""Where each option's value comes from: flag > environment > settings file > workspace > default.

Every value keeps its origin, and a name that no option has is an error with the nearest one.
Knows nothing of what the options mean; texts become values by the command's own parser.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bitnet_jax.core.errors import ConfigError, NoInput, UsageError, did_you_mean
from bitnet_jax.core.paths import os_failure

from . import registry
from .args import Parser, as_texts
from .fields import ENV_PREFIX, default_of, env_name
from .options import GlobalArgs

WORKSPACE_FILE = "bitnet.toml"

# Read by the library itself, not options of any command: name -> what it does, its values.
# `bitnet help environment` prints it.
LIBRARY_ENV: dict[str, str] = {
    "BITNET_CACHE_DIR": "the folder for built kernels and locks; default: this user's cache",
    "BITNET_ISA": "the CPU kernels' instruction set: avx512_vnni, avx_vnni, avx2, neon_dotprod "
    "or portable; one that cannot run is an error; default: the best that this processor has",
    "BITNET_KERNELS": "a folder that `bitnet dev build` wrote: its CPU kernels are used, and none "
    "are built",
    "BITNET_NO_COMPILE": "1: never call a C++ compiler; 0 (default): build the CPU kernels at "
    "first use",
    "BITNET_VERIFY_PASSES": "1: check every program after each pass, and name the pass that broke "
    "it; 0 (default): trust them",
}

TRUTH = {"1": True, "true": True, "yes": True, "on": True}
TRUTH |= {"0": False, "false": False, "no": False, "off": False}

# Which file a settings file is chosen by cannot stand in one.
NOT_IN_FILES = frozenset({"settings"})
# The workspace is found by itself, also in a folder that a stranger's model came in: no file may
# be run because it stands there. A file that was named by --settings may say it.
NOT_IN_WORKSPACE = frozenset({"plugin"})


class Setting(NamedTuple):
    """A value and where it came from."""

    value: Any
    origin: str


class Source(NamedTuple):
    """One layer: raw values by field name, and the words for the origin of each."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


def resolve(
    parser: Parser,
    command: registry.Command,
    typed: Mapping[str, Any],
    env: Mapping[str, str],
    cwd: Path,
) -> dict[str, Setting]:
    """Returns field name -> Setting for every option of `parser`.

    Raises:
      ConfigError: an unknown name or a value that does not fit, outside the command line.
      NoInput: the settings file named does not exist.
    """
    layers = [_environment(parser, env)]
    chosen = typed.get("settings") or layers[0].values.get("settings")
    if chosen:
        layers.append(_file(cwd / chosen, parser, command))
    workspace = find_workspace(cwd)
    if workspace is not None:
        layers.append(_file(workspace, parser, command, NOT_IN_WORKSPACE))

    settings = {}
    for name, field in parser.fields.items():
        if name in typed:
            settings[name] = Setting(typed[name], "command line")
            continue
        layer = next((layer for layer in layers if name in layer.values), None)
        if layer is None:
            settings[name] = Setting(default_of(field), "default")
        else:
            origin = layer.origins[name]
            settings[name] = Setting(_fit(parser, field, layer.values[name], origin), origin)
    return settings


def _fit(parser: Parser, field: dataclasses.Field, raw: Any, origin: str) -> Any:
    """Returns a raw value (a text, or what a settings file holds) as the option's value."""
    if field.type is bool:
        word = str(raw).strip().lower()
        if word not in TRUTH:
            raise ConfigError(
                "settings.bad_value",
                f"{origin}: `{raw}` is neither true nor false (`{field.name}`)",
                "write one of: " + ", ".join(TRUTH),
            )
        return TRUTH[word]
    try:
        if field.metadata.get("count"):
            return int(raw)
        return parser.convert(field, as_texts(field, raw))
    except UsageError as error:
        raise ConfigError("settings.bad_value", f"{origin}: {error.message}", error.hint) from error
    except ValueError as error:
        raise ConfigError("settings.bad_value", f"{origin}: `{field.name}`: {error}") from error


def _environment(parser: Parser, env: Mapping[str, str]) -> Source:
    names = {env_name(field): name for name, field in parser.fields.items()}
    # Empty is unset: `BITNET_OUTPUT= bitnet ...` is how a shell takes one away.
    ours = {name for name, value in env.items() if name.startswith(ENV_PREFIX) and value}
    stray = sorted(ours - set(names) - set(LIBRARY_ENV))
    # The options of the other commands are only gathered when there is something to look up.
    known = _all_env_names() if stray else set()
    for variable in stray:
        if variable not in known:
            raise ConfigError(
                "settings.unknown_environment",
                f"the environment sets `{variable}`, which no option is read from",
                f"{did_you_mean(variable, known | set(LIBRARY_ENV))} Else: unset {variable}",
            )
    values = {names[variable]: env[variable] for variable in ours & set(names)}
    return Source(values, {names[v]: f"environment variable {v}" for v in ours & set(names)})


def _all_fields() -> dict[str, set[str]]:
    """Returns the command words -> field names, over every command."""
    fields = {"": {field.name for field in dataclasses.fields(GlobalArgs)}}
    for command in registry.COMMANDS:
        _, cls = registry.load(command)
        own = {field.name for field in dataclasses.fields(cls)}
        fields[registry.words(command)] = own | fields[""]
    return fields


def _all_env_names() -> set[str]:
    return {ENV_PREFIX + name.upper() for names in _all_fields().values() for name in names}


def find_workspace(cwd: Path) -> Path | None:
    """Returns the nearest `bitnet.toml`, in `cwd` or a folder above it."""
    for folder in (cwd, *cwd.parents):
        if (folder / WORKSPACE_FILE).is_file():
            return folder / WORKSPACE_FILE
    return None


def _file(
    path: Path, parser: Parser, command: registry.Command, refused: frozenset[str] = frozenset()
) -> Source:
    """Returns what a settings file says for `command`.

    `name = value` holds for every command that has the option, under `[group]` for those of
    the group, under `[group.command]` for one; the most special wins.
    """
    text = _read(path)
    tree = _parse(path, text)
    known = _all_fields()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for place, table in _tables(tree, known, path, text):
        names = set().union(*(known[words] for words in known if _covers(place, words)))
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in names - NOT_IN_FILES:
                raise _unknown(key, {n.replace("_", "-") for n in names}, place, path, text)
            if name in refused:
                raise ConfigError(
                    "settings.workspace_code",
                    f"{path}:{_line(text, key, place)}: `{key}` would run a file because of the "
                    "folder that you are in",
                    f"pass --{key}, set {ENV_PREFIX}{name.upper()}, or name a file: --settings",
                )
            if _covers(place, registry.words(command)) and name in parser.fields:
                values[name] = value
                origins[name] = f"{path}:{_line(text, key, place)}"
    return Source(values, origins)


def _covers(place: str, words: str) -> bool:
    """Says whether a table applies to a command: "" and "model" to "model convert"."""
    return place in ("", words, words.partition(" ")[0])


def _tables(
    tree: Mapping[str, Any], known: Mapping[str, set[str]], path: Path, text: str
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yields (place, its options), from the general to the special."""
    places = set(known) | {words.partition(" ")[0] for words in known}
    found = [("", {k: v for k, v in tree.items() if not isinstance(v, Mapping)})]
    for group, table in tree.items():
        if not isinstance(table, Mapping):
            continue
        if group not in places:
            raise _unknown(group, places - {""}, "", path, text)
        found.append((group, {k: v for k, v in table.items() if not isinstance(v, Mapping)}))
        for name, inner in table.items():
            if not isinstance(inner, Mapping):
                continue
            place = f"{group} {name}"
            if place not in known:
                near = {words.partition(" ")[2] for words in known if words.startswith(group)}
                raise _unknown(name, near - {""}, group, path, text)
            found.append((place, dict(inner)))
    return sorted(found, key=lambda item: len(item[0].split()))


def _unknown(key: str, known: set[str], place: str, path: Path, text: str) -> ConfigError:
    where = f" in [{place.replace(' ', '.')}]" if place else ""
    return ConfigError(
        "settings.unknown_key",
        f"{path}:{_line(text, key, place)}: unknown name `{key}`{where}",
        did_you_mean(key, known),
    )


def _line(text: str, key: str, place: str) -> int:
    """Returns the line that sets or opens `key` in the table `place` (1 if it is not found).

    The readers keep no positions; a message's line is worth a search, not a second parser.
    """
    start = 0
    header = re.search(rf"^\s*\[\s*{re.escape(place.replace(' ', '.'))}\s*\]", text, re.M)
    if place and header:  # TOML
        start = header.end()
    elif place:  # YAML and JSON: one key inside the other
        for word in place.split():
            start = _find(text, word, start) or start
    return text.count("\n", 0, _find(text, key, start) or 0) + 1


def _find(text: str, key: str, start: int) -> int | None:
    pattern = rf"""^[\s\[{{"'-]*(?:[\w-]+\.)?({re.escape(key)})["'\]]*\s*(?:[=:\]]|$)"""
    found = re.compile(pattern, re.M).search(text, start)
    return found.end(1) if found else None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NoInput(
            "settings.not_found", f"no settings file `{path}`", "check --settings"
        ) from error
    except OSError as error:
        raise os_failure(error, "read", path) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            "settings.not_text", f"{path}: not UTF-8 text ({error.reason})"
        ) from error


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem}{where}") from error
    except YAMLError as error:
        raise ValueError(str(error)) from error


READERS = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": _yaml}


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    reader = READERS.get(path.suffix.lower(), _toml)
    try:
        tree = reader(text)
    except RecursionError as error:
        raise ConfigError("settings.syntax", f"{path}: nested too deeply") from error
    except ValueError as error:  # both readers' errors name line and column
        raise ConfigError("settings.syntax", f"{path}: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError("settings.syntax", f"{path}: a table of names and values is expected")
    return tree
