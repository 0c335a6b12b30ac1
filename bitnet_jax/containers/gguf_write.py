"""Writing GGUF files, version 3, little-endian: the header at once, tensors as they come.

What is written depends on nothing but what is given. Knows nothing of models.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from bitnet_jax.containers import gguf_types as types
from bitnet_jax.containers.gguf import MAX_NAME
from bitnet_jax.containers.gguf_types import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, KINDS, TensorType
from bitnet_jax.core.errors import CannotCreate, InternalError

# A value with its kind: ("u32", 5), ("string", "x"), ("[string]", […]), ("[f32]", vector).
Value = tuple[str, Any]


@dataclass(frozen=True)
class Planned:
    """A tensor to come: what its row in the header says; `shape` is numpy's order."""

    name: str
    type: TensorType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.type.size(self.shape)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _encoded(kind: str, value: Any) -> bytes:
    """A value's type and bytes."""
    inner = kind.strip("[]")
    number = KINDS[inner]
    if kind.startswith("["):
        head = struct.pack("<IIQ", types.ARRAY, number, len(value))
        if inner == "string":
            return head + b"".join(map(_text, value))
        return head + np.asarray(value, types.SCALARS[number]).tobytes()
    if inner == "string":
        return struct.pack("<I", number) + _text(value)
    return struct.pack("<I", number) + np.asarray(value, types.SCALARS[number]).tobytes()


def _header(metadata: Mapping[str, Value], plan: Iterable[Planned], count: int) -> bytes:
    parts = [types.MAGIC, struct.pack("<IQQ", types.VERSIONS[-1], count, len(metadata))]
    for key, (kind, value) in metadata.items():
        parts += [_text(key), _encoded(kind, value)]
    offset = 0
    for tensor in plan:
        shape = tensor.shape[::-1]
        parts += [
            _text(tensor.name),
            struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor.type.id, offset),
        ]
        offset += tensor.nbytes + -tensor.nbytes % DEFAULT_ALIGNMENT
    header = b"".join(parts)
    return header + b"\0" * (-len(header) % DEFAULT_ALIGNMENT)


class GgufWriter:
    """Writes the header of `plan`, then its tensors, in its order, each by `write`.

    Raises:
      CannotCreate: a name is longer than ggml takes (``gguf.name_length``).
    """

    def __init__(self, stream: BinaryIO, metadata: Mapping[str, Value], plan: Iterable[Planned]):
        if ALIGNMENT_KEY in metadata:
            raise InternalError("gguf.plan", "the alignment is the writer's to say")
        self._stream = stream
        self._plan = list(plan)
        for tensor in self._plan:
            if len(tensor.name.encode()) >= MAX_NAME:
                raise CannotCreate(
                    "gguf.name_length",
                    f"`{tensor.name}` is longer than the {MAX_NAME - 1} bytes that a tensor's "
                    "name may have in GGUF",
                    "keep it as --format bitnet",
                )
        self._next = 0
        stream.write(_header(metadata, self._plan, len(self._plan)))

    def write(self, name: str, data: np.ndarray) -> None:
        """Appends the next tensor's bytes, and zeros up to the alignment."""
        tensor = self._plan[self._next]
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if (tensor.name, tensor.nbytes) != (name, flat.size):
            raise InternalError(
                "gguf.plan",
                f"`{tensor.name}` was planned with {tensor.nbytes} bytes, given `{name}` with "
                f"{flat.size}",
            )
        self._stream.write(memoryview(flat))
        self._stream.write(b"\0" * (-flat.size % DEFAULT_ALIGNMENT))
        self._next += 1

    def finish(self) -> None:
        """Checks that all that was planned was written."""
        if self._next != len(self._plan):
            raise InternalError("gguf.plan", f"`{self._plan[self._next].name}` was not written")
