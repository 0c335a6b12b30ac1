"""Writing safetensors files, one tensor at a time, byte for byte reproducible.

The header goes in last, into room left for it: checksums and digests are known
only once the tensors have passed by, and no tensor is held for them. Knows
nothing of models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from bitnet_jax.containers.dtypes import DTYPES, NAMES
from bitnet_jax.containers.safetensors import LENGTH_BYTES, MAX_HEADER
from bitnet_jax.core.errors import InternalError

PAD_PREFIX = "__pad__."


@dataclass(frozen=True)
class Planned:
    """A tensor to come: what its row in the header will say."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def planned(name: str, dtype: np.dtype | str, shape: Iterable[int]) -> Planned:
    """Returns the plan of a tensor whose dtype is numpy's."""
    return Planned(name, NAMES[np.dtype(dtype)], tuple(int(size) for size in shape))


@dataclass(frozen=True)
class Place:
    """Where a planned tensor's data goes, from the start of all data."""

    plan: Planned
    offset: int


def encode_header(rows: Iterable[tuple[Planned, int]], metadata: Mapping[str, str]) -> bytes:
    """Returns the header's JSON for tensors at their offsets, compact, unpadded."""
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = {key: metadata[key] for key in sorted(metadata)}
    for tensor, begin in rows:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.nbytes],
        }
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def with_padding(plan: Iterable[Planned], align: int) -> list[Planned]:
    """Puts ``__pad__.N`` U8 tensors between `plan` so that each starts on `align`.

    A hole would be illegal, a tensor nobody asks for is not.
    """
    rows: list[Planned] = []
    offset = pads = 0
    for tensor in plan:
        if offset % align:
            gap = align - offset % align
            rows.append(Planned(f"{PAD_PREFIX}{pads}", "U8", (gap,)))
            offset, pads = offset + gap, pads + 1
        rows.append(tensor)
        offset += tensor.nbytes
    return rows


class SafetensorsWriter:
    """Lays tensors out in the order given, and writes the header in front of them at the end.

    ``reserve`` is the header's length in the file, padded with trailing spaces.
    Invariant: the same calls give the same bytes.
    """

    def __init__(self, stream: BinaryIO, reserve: int, align: int = 8):
        if reserve > MAX_HEADER:
            raise InternalError("safetensors.reserve", f"a header of {reserve} bytes is too long")
        self._stream = stream
        self._align = align
        self._reserve = padded_header_length(reserve, align)
        self._rows: list[tuple[Planned, int]] = []
        self._offset = 0
        self._pads = 0
        self._position = 0  # of the stream

    @property
    def offset(self) -> int:
        """Bytes of data written so far."""
        return self._offset

    def write(self, tensor: Planned, data: np.ndarray) -> None:
        """Appends one tensor, after padding where the alignment needs it."""
        self.fill(self.reserve(tensor), data)

    def reserve(self, tensor: Planned) -> Place:
        """Appends room for a tensor that `fill` writes, after padding where it is needed."""
        if self._align > 8 and self._offset % self._align:
            gap = self._align - self._offset % self._align
            pad = Planned(f"{PAD_PREFIX}{self._pads}", "U8", (gap,))
            self._pads += 1
            self.fill(self._append(pad), np.zeros(gap, np.uint8))
        return self._append(tensor)

    def _append(self, tensor: Planned) -> Place:
        place = Place(tensor, self._offset)
        self._rows.append((tensor, self._offset))
        self._offset += tensor.nbytes
        return place

    def fill(self, place: Place, data: np.ndarray) -> None:
        """Writes a tensor's data to its place."""
        tensor = place.plan
        if (data.dtype, data.shape) != (DTYPES[tensor.dtype], tensor.shape):
            raise InternalError(
                "safetensors.plan",
                f"`{tensor.name}` was planned as {tensor.dtype} {list(tensor.shape)}, "
                f"given {data.dtype} {list(data.shape)}",
            )
        self.fill_bytes(place, 0, data)

    def fill_bytes(self, place: Place, at: int, data: np.ndarray) -> None:
        """Writes a piece of a tensor's data, from byte `at` of it on."""
        # A view of another layout would be written in the wrong order.
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        start = LENGTH_BYTES + self._reserve + place.offset + at
        if self._position != start:
            self._stream.seek(start)
        self._stream.write(memoryview(flat))
        self._position = start + flat.size

    def fill_parts(self, place: Place, parts: Iterable[np.ndarray]) -> None:
        """Writes a tensor that comes in pieces of rows; the dtype is checked, and that all came."""
        tensor, at = place.plan, 0
        for part in parts:
            if part.dtype != DTYPES[tensor.dtype] or at + part.nbytes > tensor.nbytes:
                raise InternalError(
                    "safetensors.plan",
                    f"`{tensor.name}` was planned as {tensor.dtype} {list(tensor.shape)}, a piece "
                    f"at byte {at} is {part.dtype} {list(part.shape)}",
                )
            self.fill_bytes(place, at, part)
            at += part.nbytes
        if at != tensor.nbytes:
            raise InternalError(
                "safetensors.plan",
                f"`{tensor.name}` was planned with {tensor.nbytes} bytes, {at} came",
            )

    def finish(
        self, metadata: Mapping[str, str], seal: Callable[[bytes], bytes] | None = None
    ) -> bytes:
        """Writes the length and the header; returns the header as written.

        `seal` may alter the padded header last, keeping its length: a checksum of
        itself has no other place.
        """
        header = encode_header(self._rows, metadata)
        if len(header) > self._reserve:
            raise InternalError(
                "safetensors.reserve",
                f"the header takes {len(header)} bytes, {self._reserve} were reserved",
            )
        header = header.ljust(self._reserve)
        header = seal(header) if seal else header
        self._stream.seek(0)
        self._stream.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        self._stream.seek(0, 2)
        return header


def padded_header_length(length: int, align: int) -> int:
    """Returns `length` grown so that the data after it starts on `align`."""
    return length + -(LENGTH_BYTES + length) % align
