"""A settings file: what it says for a command, and where each name stands.

`name = value` holds for every command that has the option, under `[group]` for those of the
group, under `[group.command]` for one; the most special wins. TOML, or YAML and JSON by the
file's suffix. Knows nothing of which file is asked, and when.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bitnet_jax.core import yaml_text
from bitnet_jax.core.errors import ConfigError, Faults, NoInput, did_you_mean

from . import registry
from .options import GlobalArgs


class Source(NamedTuple):
    """One layer: raw values by field name, and the words for the origin of each."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


class Tree(NamedTuple):
    """A file as it was read: its path, its text, and the tables in it."""

    path: Path
    text: str
    top: Mapping[str, Any]


# Called with each name that a file sets, its value, and where it stands; raises if it may not.
Check = Callable[[str, Any, str], None]


def names_by_command() -> dict[str, set[str]]:
    """Returns the command words -> field names, over every command."""
    fields = {"": {field.name for field in dataclasses.fields(GlobalArgs)}}
    for command in registry.COMMANDS:
        _, cls = registry.load(command)
        own = {field.name for field in dataclasses.fields(cls)}
        fields[registry.words(command)] = own | fields[""]
    return fields


def covers(place: str, words: str) -> bool:
    """Says whether a table applies to a command: "" and "model" to "model convert"."""
    return place in ("", words, words.partition(" ")[0])


def names_at(place: str, known: Mapping[str, set[str]]) -> set[str]:
    """Returns the field names that the table `place` may set."""
    return set().union(*(known[words] for words in known if covers(place, words)))


def read(path: Path) -> Tree:
    """Returns a file, parsed.

    Raises:
      NoInput: there is none (``settings.not_found``).
      ConfigError: it is not UTF-8, not in its language, or no table (``settings.syntax``).
    """
    if not path.exists():
        raise NoInput("settings.not_found", f"no settings file `{path}`", "check --settings")
    text = yaml_text.read_text(path, what="settings file", code="settings.syntax")
    top = READERS.get(path.suffix.lower(), _toml)(text, str(path))
    if top is None:
        return Tree(path, text, {})
    if not isinstance(top, Mapping):
        raise ConfigError(
            "settings.syntax",
            f"{path}:1:1: a table of names and values is expected",
            "`bitnet help settings` shows one",
        )
    return Tree(path, text, top)


class Entry(NamedTuple):
    """One name that a file sets: in which table, as which field, its value, its place."""

    place: str
    name: str
    value: Any
    where: str

    @property
    def dotted(self) -> str:
        """Returns it as `dev config` names it: `serve.generate.max-tokens`."""
        return ".".join([*self.place.split(), self.name.replace("_", "-")])


def entries(
    tree: Tree, known: Mapping[str, set[str]], *, but: frozenset[str], check: Check | None = None
) -> Iterator[Entry]:
    """Yields every name that a file sets, from the general to the special.

    `but` are names that stand in no file of this kind.

    Raises:
      ConfigError: names that no option has (``settings.unknown_key``): all of them, at the end.
    """
    faults = Faults(ConfigError)
    for place, table, keys in _tables(tree, known, faults):
        allowed = names_at(place, known) - but
        for key in keys:
            name, where = str(key).replace("-", "_"), position(tree, table, key, place)
            good = False
            with faults.gathered():
                if name not in allowed:
                    raise _unknown(key, {n.replace("_", "-") for n in allowed}, place, where)
                if check is not None:
                    check(name, table[key], where)
                good = True
            if good:
                yield Entry(place, name, table[key], where)
    faults.raise_any()


def source(
    tree: Tree,
    words: str,
    names: Iterable[str],
    *,
    but: frozenset[str] = frozenset(),
    check: Check | None = None,
) -> Source:
    """Returns what a file says for the command `words`, whose fields are `names`.

    Everything in the file is checked, whichever command it is for.

    Raises:
      ConfigError: a name that no option has (``settings.unknown_key``).
    """
    known, mine = names_by_command(), set(names)
    known[words] = mine | known.get(words, set())
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for entry in entries(tree, known, but=but, check=check):
        if covers(entry.place, words) and entry.name in mine:
            values[entry.name], origins[entry.name] = entry.value, entry.where
    return Source(values, origins)


def _tables(
    tree: Tree, known: Mapping[str, set[str]], faults: Faults
) -> list[tuple[str, Mapping[str, Any], list[Any]]]:
    """Returns (place, its table, the keys that are options), from the general to the special."""
    places = set(known) | {words.partition(" ")[0] for words in known}
    found = [("", tree.top, _options(tree.top))]
    for group, table in tree.top.items():
        if not isinstance(table, Mapping):
            continue
        if group not in places:
            where = position(tree, tree.top, group, "")
            faults.add(_unknown(group, places - {""}, "", where))
            continue
        found.append((group, table, _options(table)))
        for name, inner in table.items():
            if not isinstance(inner, Mapping):
                continue
            place = f"{group} {name}"
            if place not in known:
                near = {words.partition(" ")[2] for words in known if words.startswith(group)}
                where = position(tree, table, name, group)
                faults.add(_unknown(name, near - {""}, group, where))
                continue
            found.append((place, inner, list(inner)))
    return sorted(found, key=lambda item: len(item[0].split()))


def _options(table: Mapping[str, Any]) -> list[Any]:
    return [key for key, value in table.items() if not isinstance(value, Mapping)]


def _unknown(key: Any, known: set[str], place: str, where: str) -> ConfigError:
    inside = f" in [{place.replace(' ', '.')}]" if place else ""
    return ConfigError(
        "settings.unknown_key",
        f"{where}: unknown name `{key}`{inside}",
        did_you_mean(str(key), known),
    )


def position(tree: Tree, table: Mapping[str, Any], key: Any, place: str) -> str:
    """Returns `path:line:column` of `key` in the table `place`.

    The TOML reader keeps no positions; a message's place is worth a search, not a second parser.
    """
    if hasattr(table, "lc"):
        return yaml_text.place_of(table, key, str(tree.path))
    start = 0
    if place:
        dotted = r"\s*\.\s*".join(map(re.escape, place.split()))
        header = re.search(rf"^\s*\[\s*{dotted}\s*\]", tree.text, re.M)
        group = _find(tree.text, place.split()[0], 0)  # serve = {...}, serve.seed = 1
        start = header.end() if header else group or 0
    at = _find(tree.text, str(key), start)
    return str(tree.path) if at is None else f"{tree.path}:{_line_column(tree.text, at)}"


def _find(text: str, key: str, start: int) -> int | None:
    """Returns where `key` is set after `start`, or opens a table."""
    before = r"""(?:^|[{,])[ \t\["']*(?:[\w-]+["']?\s*\.\s*["']?)*?"""
    pattern = (
        rf"""{before}({re.escape(key)})["'\]]*\s*[=.\]]|{before}({re.escape(key)})["'\]]*\s*$"""
    )
    found = re.compile(pattern, re.M).search(text, start)
    return found.start(found.lastindex or 0) if found else None


def _line_column(text: str, at: int) -> str:
    return f"{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def _toml(text: str, name: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError("settings.syntax", f"{name}: nested too deeply", "mend it") from error
    except tomllib.TOMLDecodeError as error:
        said = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.S)
        problem, where = str(error), f"{name}:{_line_column(text, len(text.rstrip()))}"
        if said:
            problem, where = said[1], f"{name}:{said[2]}:{said[3]}"
        raise ConfigError(
            "settings.syntax", f"{where}: {problem}", "`bitnet help settings` shows one"
        ) from error


def _yaml(text: str, name: str) -> Any:
    return yaml_text.parse(text, name, code="settings.syntax")


def _json(text: str, name: str) -> Any:
    # JSON is YAML but for tabs between its tokens; in its texts none may stand as it is.
    return _yaml(text.replace("\t", " "), name)


READERS: dict[str, Callable[[str, str], Any]] = {
    ".toml": _toml,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".json": _json,
}
