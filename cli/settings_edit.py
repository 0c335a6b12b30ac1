"""Changing one name in a settings file, and nothing else in it: comments and order stay.

The value is checked by the parser of each command that would read it. Knows where nothing lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import ConfigError, UsageError, did_you_mean

from . import registry, settings_file
from .args import Parser
from .config import fit
from .options import GlobalArgs


def split(dotted: str, but: frozenset[str]) -> tuple[str, str]:
    """Returns `serve.generate.max-tokens` as ("serve generate", "max_tokens").

    Raises:
      UsageError: there is no such group, command or option.
    """
    known = settings_file.names_by_command()
    *above, key = dotted.split(".")
    place, name = " ".join(above), key.replace("-", "_")
    places = set(known) | set(registry.GROUPS)
    if not all(dotted.split(".")):
        raise UsageError(
            "settings.unknown_name",
            f"`{dotted}` is no name: a part of it is empty",
            "write it as `max-tokens` or `serve.generate.max-tokens`",
        )
    if place not in places:
        raise UsageError(
            "settings.unknown_name",
            f"`{dotted}`: there is no command or group `{'.'.join(above)}`",
            did_you_mean(".".join(above), {p.replace(" ", ".") for p in places if p}),
        )
    allowed = settings_file.names_at(place, known) - but
    if name not in allowed:
        raise UsageError(
            "settings.unknown_name",
            f"`{dotted}`: no option is called so" + (f" in `{place}`" if place else ""),
            did_you_mean(key, {n.replace("_", "-") for n in allowed}),
        )
    return place, name


def readers(place: str, name: str) -> list[tuple[registry.Command, Parser]]:
    """Returns the commands that a name in the table `place` speaks to, with their parsers.

    Also those that are not built yet, which come first: `dev config` reads the file for them too,
    and one that it refuses would keep it from every other name.
    """
    found = []
    for command in sorted(registry.COMMANDS, key=lambda command: command.target is not None):
        if settings_file.covers(place, registry.words(command)):
            words = registry.words(command)
            parser = Parser(GlobalArgs, registry.load(command)[1], prog=f"bitnet {words}")
            if name in parser.fields:
                found.append((command, parser))
    return found


def value_of(dotted: str, text: str, but: frozenset[str]) -> Any:
    """Returns what a file says for `text`: a number, a truth, a text, or a list of them.

    Raises:
      UsageError: a command that would read it refuses it.
    """
    import tomllib

    place, name = split(dotted, but)
    raw: Any = text
    if text.startswith("["):
        try:
            raw = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise UsageError(
                "settings.value", f"`{text}` is no list: {error}", """write ["a", "b"]"""
            ) from error
    value: Any = raw
    for _, parser in readers(place, name):
        field = parser.fields[name]
        try:
            value = fit(parser, field, raw, f"`{dotted}`")
        except ConfigError as error:
            hint = error.hint or f"`{parser.prog} --help` shows what it takes"
            raise UsageError("settings.value", error.message, hint) from error
        if isinstance(value, list) and not isinstance(raw, list):
            value = [raw]
    return value if isinstance(value, bool | int | float | str | list) else str(value)


def put(text: str, dotted: str, value: Any) -> str:
    """Returns the TOML `text` with `dotted` set to `value`."""
    import tomlkit

    document = tomlkit.parse(text)
    *above, key = dotted.split(".")
    table: Any = document
    for name in above:
        if name not in table:
            inline = isinstance(table, tomlkit.items.InlineTable)
            new = tomlkit.inline_table() if inline else tomlkit.table(name != above[-1])
            table[name] = new
        table = table[name]
    table[_spelling(table, key)] = value
    return tomlkit.dumps(document)


def drop(text: str, dotted: str) -> str | None:
    """Returns the TOML `text` without `dotted`, or None when it does not set it."""
    import tomlkit

    document = tomlkit.parse(text)
    *above, key = dotted.split(".")
    table: Any = document
    for name in above:
        table = table.get(name)
        if not isinstance(table, Mapping):
            return None
    key = _spelling(table, key)
    if key not in table:
        return None
    table.pop(key)
    return tomlkit.dumps(document)


def _spelling(table: Mapping[str, Any], key: str) -> str:
    """Returns the key as the file spells it already: `top_k` and `top-k` are one name."""
    same = {str(k).replace("_", "-"): str(k) for k in table}
    return same.get(key.replace("_", "-"), key)


def rewrite(path: Path, text: str) -> None:
    """Writes a settings file whole; a link stays a link."""
    from bitnet_jax.core.paths import atomic_file

    with atomic_file(path) as stream:
        stream.write(text.encode())
