"""YAML read strictly: what is wrong with it is an error that names file, line and column.

YAML 1.2 (`1e-4` is a number, `010` is 10, `no` is a text), in which no key may stand twice. A file
that is small and expands to something huge (aliases of aliases), or is nested without end, is
refused before anything is built from it. Knows nothing of what the keys mean.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import ConfigError
from bitnet_jax.core.paths import os_failure

# Far above what a person writes, far below what hurts.
MOST_BYTES = 4_000_000
MOST_DEPTH = 64
MOST_VALUES = 100_000

# What a file starts with that is text, and not UTF-8: the longest first.
OTHER_TEXT = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_text(path: Path, *, what: str, code: str) -> str:
    """Returns a file as text; a byte order mark before UTF-8 is passed over.

    Raises:
      NoInput, PermissionDenied, IOFailure: it cannot be read.
      ConfigError: it is not UTF-8, or far too long (`code`).
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise os_failure(error, "read", path) from error
    if len(data) > MOST_BYTES:
        raise ConfigError(
            code, f"{path}: longer than {MOST_BYTES} bytes", f"is this a {what} at all?"
        )
    for mark, encoding in OTHER_TEXT.items():
        if data.startswith(mark):
            raise ConfigError(code, f"{path}:1:1: this is {encoding} text", "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2]) + 1
        raise ConfigError(
            code,
            f"{path}:{line}:{column}: not UTF-8 text ({error.reason})",
            "save it as UTF-8",
        ) from error


def parse(text: str, name: str, *, code: str) -> Any:
    """Returns the tree in `text`; `name` stands for the file in messages.

    Mappings remember where their keys stand: `place_of` tells it. An empty text is None.

    Raises:
      ConfigError: it is no YAML, or none that a person wrote (`code`).
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        refused = _refused(text)
        if refused is not None:
            mark, problem, hint = refused
            where = f"{name}:{mark.line + 1}:{mark.column + 1}"
            raise ConfigError(code, f"{where}: {problem}", hint)
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        hint = "indent with spaces" if "\\t" in problem else "mend the YAML"
        raise ConfigError(code, f"{where}: {problem}", hint) from error
    except YAMLError as error:  # a character that YAML has not: it counts characters, not lines
        position = getattr(error, "position", 0)
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        problem = str(error).splitlines()[0]
        raise ConfigError(code, f"{name}:{line}:{column}: {problem}", "mend the YAML") from error
    except (ValueError, OverflowError) as error:  # a number or a date that is none
        where = _odd_scalar(text, name)
        raise ConfigError(code, f"{where}: {error}", "put it in quotes") from error
    values = _expanded(tree, {})
    if values > MOST_VALUES:
        raise ConfigError(
            code, f"{name}:1:1: its aliases expand to {values} values", "write it out in full"
        )
    return tree


def place_of(table: Any, key: Any, name: str) -> str:
    """Returns `name:line:column` of a key; `name` alone where the table remembers nothing."""
    position = getattr(table, "lc", None)
    if position is None or not position.data or key not in position.data:
        return name  # a plain dict; a key that a merge (<<) brought
    line, column = position.key(key)
    return f"{name}:{line + 1}:{column + 1}"


def _refused(text: str) -> tuple[Any, str, str] | None:
    """Returns what must not be built from `text` (its mark, the problem, a hint), or None.

    What is nested too deeply, tagged, or part of itself: seen before anything recurses into it.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml import events as kinds

    open_anchors: list[str | None] = []
    for event in YAML(typ="rt", pure=True).parse(io.StringIO(text)):
        tag = getattr(event, "tag", None)
        if tag:
            problem = f"the tag `{tag}` is not read: it could name code"
            return event.start_mark, problem, "leave it out"
        if isinstance(event, kinds.CollectionStartEvent):
            open_anchors.append(event.anchor)
            if len(open_anchors) > MOST_DEPTH:
                return event.start_mark, f"nested more than {MOST_DEPTH} deep", "mend the YAML"
        elif isinstance(event, kinds.CollectionEndEvent):
            open_anchors.pop()
        elif isinstance(event, kinds.AliasEvent) and event.anchor in open_anchors:
            problem = f"`*{event.anchor}` stands inside of what it names"
            return event.start_mark, problem, "write it out"
    return None


def _odd_scalar(text: str, name: str) -> str:
    """Returns where the value stands that looks like a number or a date and is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml import events as kinds

    for event in YAML(typ="rt", pure=True).parse(io.StringIO(text)):
        if isinstance(event, kinds.ScalarEvent) and event.implicit[0]:
            try:
                YAML(typ="rt", pure=True).load(event.value)
            except (ValueError, OverflowError):
                return f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
    return name


def _expanded(tree: Any, seen: dict[int, int]) -> int:
    """Returns how many values a walk over `tree` would meet: each alias is walked again."""
    if not isinstance(tree, Mapping | list):
        return 1
    if id(tree) not in seen:
        items = tree.values() if isinstance(tree, Mapping) else tree
        seen[id(tree)] = 1 + sum(_expanded(item, seen) for item in items)
    return seen[id(tree)]
