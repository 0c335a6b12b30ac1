"""GGUF files changed by hand, as other tools and damage change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers import gguf_types as types
from bitnet_jax.containers.gguf import GgufFile, open_gguf_file
from bitnet_jax.containers.gguf_write import GgufWriter, Planned

_ARRAYS = {"int32": "[i32]", "float32": "[f32]"}


def kinds(metadata: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Values as the writer wants them; whole numbers are u32."""
    found = {}
    for key, value in metadata.items():
        if isinstance(value, np.ndarray):
            kind = _ARRAYS[str(value.dtype)]
        elif isinstance(value, list):
            kind = "[string]"
        else:
            kind = {bool: "bool", int: "u32", float: "f32", str: "string"}[type(value)]
        found[key] = (kind, value)
    return found


def write(
    file: GgufFile,
    path: Path,
    metadata: Mapping[str, tuple[str, Any]],
    names: Mapping[str, str] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """The tensors of `file`, some renamed, and more of float32, under other keys."""
    data = {name: file.read_bytes(name) for name in file.tensors}
    called = {name: (names or {}).get(name, name) for name in data}
    plan = [Planned(called[i.name], i.type, i.shape) for i in file.tensors.values()]
    plan += [Planned(n, types.TYPES["F32"], v.shape) for n, v in (more or {}).items()]
    with open(path, "wb") as stream:
        writer = GgufWriter(stream, metadata, plan)
        for name, value in data.items():
            writer.write(called[name], value)
        for name, value in (more or {}).items():
            writer.write(name, value)
        writer.finish()
    return path


def without_ours(source: Path, path: Path) -> Path:
    """Without the keys that only this package writes, and the carried tokenizer."""
    file = open_gguf_file(source)
    kept = {
        key: value for key, value in file.metadata.items()
        if not key.startswith("bitnet_jax.") and key != "tokenizer.huggingface.json"
    }  # fmt: skip
    return write(file, path, kinds(kept))


def value(path: Path, key: str, new: tuple[str, Any] | None) -> None:
    """One key of a file set, or removed."""
    file = open_gguf_file(path)
    metadata = kinds(file.metadata)
    metadata.pop(key, None)
    write(file, path, metadata if new is None else metadata | {key: new})


def renamed(source: Path, path: Path, old: str, new: str) -> Path:
    """One tensor called otherwise."""
    file = open_gguf_file(source)
    return write(file, path, kinds(file.metadata), {old: new})


def extended(source: Path, path: Path, name: str) -> Path:
    """One tensor more."""
    file = open_gguf_file(source)
    return write(file, path, kinds(file.metadata), more={name: np.zeros(4, "<f4")})


def tensor(path: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    """The bytes of one tensor changed in place."""
    info = open_gguf_file(path).info(name)
    raw = bytearray(path.read_bytes())
    data = np.frombuffer(raw, np.uint8, info.nbytes, info.begin)
    change(data)
    path.write_bytes(raw)
