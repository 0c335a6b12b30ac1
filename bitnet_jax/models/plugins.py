"""Families from elsewhere: a Python file that the user names, or an installed package.

A file runs when it is named, by `--plugin` or `load_plugin`, and never because a checkpoint
names it. A package states its families as entry points of the group `bitnet_jax.families`,
each called as its family is; one is imported when its family is asked for. Whatever goes
wrong there is an error of ours that names the file or the distribution. Keeps nothing: the
registry is `families.py`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bitnet_jax.core.errors import BadData, BitnetError, NoInput, Unavailable
from bitnet_jax.core.paths import os_failure
from bitnet_jax.models.family import API, Family

GROUP = "bitnet_jax.families"
_MOST_BYTES = 8 << 20  # no Python file that a person wrote
_HOW = "docs/write-a-family.md shows a whole plugin"


def families_in_file(path: Path) -> tuple[Family, ...]:
    """Runs a Python file; returns its `FAMILIES`, or its one `FAMILY`.

    Its folder is put last on `sys.path`, so that it can import what stands beside it.

    Raises:
      NoInput: there is no such file (``plugin.not_found``).
      BadData: it is no Python (``plugin.not_python``), it fails (``plugin.failed``, or the
        code of our own error), or gives no families (``plugin.no_family``, ``plugin.api``).
    """
    path = path.absolute()
    where = f"plugin `{path}`"
    source = _source(path, where)
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = getattr(error, "lineno", None)
        raise BadData(
            "plugin.not_python",
            f"{where}{f', line {line}' if line else ''}: this is no Python: "
            f"{getattr(error, 'msg', error)}",
            "a plugin is a Python file",
        ) from error
    name = f"bitnet_plugin_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        _run(code, module, path, where)
        return _families_of(module, where)
    except BitnetError:
        del sys.modules[name]
        raise


def entry_points() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """The installed entry points by name; nothing is imported."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        # One distribution may be found twice, by two spellings of one folder.
        same = (point.value, distribution(point))
        known = found.setdefault(point.name, [])
        if same not in [(other.value, distribution(other)) for other in known]:
            known.append(point)
    return dict(sorted(found.items()))


def distribution(point: importlib.metadata.EntryPoint) -> str:
    """What is installed, with its version: ``mixing-decoder 1.0``."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def family_of_point(point: importlib.metadata.EntryPoint) -> Family:
    """Imports an entry point; returns the family that is called as it is.

    Raises:
      Unavailable: it cannot be imported (``plugin.import``).
      BadData: what it names is no family, or one of another name.
    """
    where = f"`{distribution(point)}`, entry point `{point.name} = {point.value}`"
    try:
        loaded = point.load()
    # A stranger's module may raise anything; no command that does without it may fail.
    except (Exception, SystemExit) as error:
        text = error.message if isinstance(error, BitnetError) else str(error)
        raise Unavailable(
            "plugin.import",
            f"{where} cannot be imported: {type(error).__name__}: {text}",
            "repair or uninstall that package",
        ) from error
    families = _families_of(loaded, where)
    for family in families:
        if family.name == point.name:
            return family
    names = ", ".join(f"`{family.name}`" for family in families)
    raise BadData(
        "plugin.entry_point",
        f"{where} gives {names}: an entry point is called as its family is",
        "rename the entry point in that package's pyproject.toml",
    )


def _source(path: Path, where: str) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise BadData(
                "plugin.not_python",
                f"{where} has {path.stat().st_size} bytes: no Python file",
                "a plugin is a Python file",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NoInput("plugin.not_found", f"{where} does not exist", "check the path") from error
    except IsADirectoryError as error:
        raise BadData(
            "plugin.not_python",
            f"{where} is a folder",
            "name the Python file in it; an installed package needs no --plugin",
        ) from error
    except OSError as error:
        raise os_failure(error, "read", path) from error


def _run(code: Any, module: ModuleType, path: Path, where: str) -> None:
    """Runs the file; what it raises becomes an error that names the line."""
    try:
        exec(code, module.__dict__)
    except BitnetError as error:
        place = f"{where}, line {_line(error, str(path))}"
        raise type(error)(error.code, f"{place}: {error.message}", error.hint) from error
    # Whatever a stranger's module may raise, SystemExit too: it is the plugin's failure.
    except (Exception, SystemExit) as error:
        raise BadData(
            "plugin.failed",
            f"{where}, line {_line(error, str(path))}: {type(error).__name__}: {error}",
            f"run it by itself to see the traceback: python {path.name}",
        ) from error


def _line(error: BaseException, file: str) -> int | str:
    """The last line of `file` on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return lines[-1] if lines and lines[-1] is not None else "?"


def _families_of(found: Any, where: str) -> tuple[Family, ...]:
    """The families in a module, or in what an entry point names."""
    if isinstance(found, ModuleType):
        names = [name for name in ("FAMILIES", "FAMILY") if hasattr(found, name)]
        if not names:
            raise BadData(
                "plugin.no_family",
                f"{where} defines neither FAMILIES nor FAMILY",
                f"end it with `FAMILY = Family(...)`; {_HOW}",
            )
        found = getattr(found, names[0])
    families = tuple(found) if isinstance(found, list | tuple) else (found,)
    wrong = [item for item in families if not isinstance(item, Family)]
    if wrong or not families:
        kind = f"something of type {type(wrong[0]).__name__}" if wrong else "an empty sequence"
        raise BadData(
            "plugin.no_family",
            f"{where} gives {kind} where a Family is expected",
            f"FAMILY is a bitnet_jax.Family, FAMILIES a tuple of them; {_HOW}",
        )
    for family in families:
        if family.api != API:
            raise BadData(
                "plugin.api",
                f"{where}: family `{family.name}` was written for version {family.api!r} of the "
                f"plugins' interface; this is version {API}",
                "install a version of the plugin for this bitnet-jax"
                if isinstance(family.api, int) and family.api < API
                else "install a newer bitnet-jax",
            )
    return families


def keys_of(family: Family) -> Mapping[str, str]:
    """Everything that no two families may share -> what it is."""
    keys = {f"family {family.name}": "name", **{f"shape {s}": "shape" for s in family.shapes}}
    if family.huggingface is not None:
        keys[f"architecture {family.huggingface.architecture}"] = "architecture"
        keys[f"model_type {family.huggingface.model_type}"] = "model_type"
    return keys
