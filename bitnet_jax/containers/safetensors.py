"""Reading safetensors files that nobody vouches for.

As `safetensors.safe_open`, but strict about everything that reader takes on
faith, with errors that name the tensor and the byte, and with tensors read into
64-byte aligned memory that this process owns. The header is parsed without
reading a tensor; each tensor is read when asked, by one positioned read. Knows
nothing of models. Writing is in `safetensors_write.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import Blob, load_json
from bitnet_jax.containers.dtypes import DTYPES
from bitnet_jax.containers.errors import TensorError, find_row
from bitnet_jax.containers.sniff import HEAD, sniff_bytes, wrong_kind
from bitnet_jax.core.errors import BadData, shown

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000
MAX_NAME = 1024
MAX_RANK = 32
# Beyond this numpy's own index arithmetic would overflow.
_MAX_SPAN = (1 << 63) - 1


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a header.

    Invariants: `end - begin` = the shape's product times the dtype's size; `begin`
    and `end` are absolute positions inside the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.begin

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of its elements."""
        return DTYPES[self.dtype]


class SafetensorsFile:
    """An open file: `metadata`, `tensors` (in the order of their data) and reads.

    Attributes:
      header: the header's bytes as they stand in the file, padding included.
    """

    def __init__(
        self,
        blob: Blob,
        header: bytes,
        metadata: Mapping[str, str],
        tensors: Mapping[str, TensorInfo],
    ):
        self._blob = blob
        self.path = blob.path
        self.size = blob.size
        self.header = header
        self.metadata = metadata
        self.tensors = tensors

    def info(self, name: str) -> TensorInfo:
        """Returns the header's row of `name`.

        Raises:
          BadData: there is none (code ``safetensors.missing``).
        """
        return find_row(
            self.tensors, name, "safetensors.missing", f"`{self.path}` has no tensor `{name}`"
        )

    def read_bytes(self, name: str) -> np.ndarray:
        """Returns the data of `name` as a 64-byte aligned uint8 vector."""
        info = self.info(name)
        return self._blob.read(info.begin, info.nbytes)

    def read(self, name: str) -> np.ndarray:
        """Returns `name` in its dtype and shape, 64-byte aligned, writable."""
        info = self.info(name)
        return self.read_bytes(name).view(info.numpy).reshape(info.shape)

    def parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Reads a matrix `rows` rows at a time, each piece into the same memory."""
        info = self.info(name)
        of_row = info.nbytes // max(info.shape[0], 1)
        held = self._blob.empty(min(rows, info.shape[0]) * of_row)
        for at in range(0, info.shape[0], rows):
            part = held[: min(rows, info.shape[0] - at) * of_row]
            self._blob.read_into(info.begin + at * of_row, part)
            yield part.view(info.numpy).reshape(-1, *info.shape[1:])

    def read_prefix(self, name: str, count: int) -> np.ndarray:
        """Returns at most the first `count` elements of `name` as a vector."""
        info = self.info(name)
        nbytes = min(info.nbytes, count * info.numpy.itemsize)
        return self._blob.read(info.begin, nbytes).view(info.numpy)


def open_safetensors(path: os.PathLike | str) -> SafetensorsFile:
    """Opens `path` and checks its whole header; reads no tensor.

    Raises:
      NoInput, PermissionDenied, IOFailure: from the operating system.
      BadData: anything else: see the codes ``file.*`` and ``safetensors.*``.
    """
    blob = Blob(path)
    head = blob.read(0, min(HEAD, blob.size)).tobytes()
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if len(head) <= LENGTH_BYTES or head[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise wrong_kind(path, head, "a safetensors file")
    if length > MAX_HEADER or length > blob.size - LENGTH_BYTES:
        if sniff_bytes(head).id != "safetensors":  # text with a brace at byte 8, for example
            raise wrong_kind(path, head, "a safetensors file")
        limit = "over the 100 MB allowed" if length > MAX_HEADER else "more than the file holds"
        raise BadData(
            "safetensors.header_length",
            f"`{path}`: the header (bytes 0-7) claims {length} bytes, {limit}"
            f" ({blob.size} bytes in all)",
            "the file is cut short or damaged: download or copy it again",
        )
    header = blob.read(LENGTH_BYTES, length).tobytes()
    raw = load_json(header, code="safetensors.header_json", where=f"`{path}`: the header")
    if not isinstance(raw, dict):
        raise BadData("safetensors.header_json", f"`{path}`: the header is no JSON object")
    metadata = _metadata(raw.pop("__metadata__", {}), path)
    start = LENGTH_BYTES + length
    infos = [_tensor(name, row, start, blob.size, path) for name, row in raw.items()]
    infos.sort(key=lambda info: (info.begin, info.end))
    _check_cover(infos, start, blob.size, path)
    return SafetensorsFile(blob, header, metadata, {info.name: info for info in infos})


def _metadata(raw: Any, path: os.PathLike | str) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise BadData(
            "safetensors.metadata", f"`{path}`: `__metadata__` must map strings to strings"
        )
    if any(0xD800 <= ord(letter) < 0xE000 for word in (*raw, *raw.values()) for letter in word):
        raise BadData(
            "safetensors.metadata", f"`{path}`: `__metadata__` holds half a surrogate pair"
        )
    return raw


def _name_fault(name: str) -> str | None:
    if not name:
        return "is empty"
    if len(name) > MAX_NAME:
        return f"is {len(name)} letters long (at most {MAX_NAME})"
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        return "holds a control character or half a surrogate pair"
    segments = name.replace("\\", "/").split("/")
    if ".." in segments or (len(segments) > 1 and not segments[0]):
        return "looks like a path out of its folder"
    return None


def _tensor(name: str, row: Any, start: int, size: int, path: os.PathLike | str) -> TensorInfo:
    """Checks one row. All arithmetic is on Python integers: nothing can overflow."""
    short = ascii(name if len(name) <= 80 else name[:77] + "...")[1:-1]
    where = f"`{path}`, tensor `{short}`"

    def bad(code: str, message: str) -> BadData:
        return TensorError(
            code, f"{where}: {message}", "the file is damaged or hostile", tensor=short
        )

    fault = _name_fault(name)
    if fault:
        raise bad("safetensors.name", f"its name {fault}")
    if not isinstance(row, dict) or not {"dtype", "shape", "data_offsets"} <= row.keys():
        raise bad("safetensors.entry", "its row needs `dtype`, `shape` and `data_offsets`")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad("safetensors.dtype", f"dtype {shown(dtype)} is not one of {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > MAX_RANK:
        raise bad("safetensors.shape", f"shape {shown(shape)} is no list of sizes (at most 32)")
    # A zero must not hide an absurd size beside it.
    if math.prod(max(dim, 1) for dim in shape) * DTYPES[dtype].itemsize > _MAX_SPAN:
        raise bad("safetensors.shape", f"shape {shown(shape)} overflows")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise bad("safetensors.offsets", f"data_offsets {shown(offsets)} is no [begin, end]")
    begin, end = offsets
    if start + end > size:
        raise bad(
            "safetensors.truncated",
            f"its data ends at byte {start + end}, the file at byte {size}: it is cut short",
        )
    wanted = math.prod(shape) * DTYPES[dtype].itemsize
    if wanted != end - begin:
        raise bad(
            "safetensors.size",
            f"{dtype} {shown(shape)} takes {wanted} bytes, its span {end - begin}",
        )
    return TensorInfo(name, dtype, tuple(shape), start + begin, start + end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


def _check_cover(infos: list[TensorInfo], start: int, size: int, path: os.PathLike | str) -> None:
    """The data must be covered exactly: no overlap, no hole, nothing after the end."""
    position, before = start, "the header"
    for info in infos:
        if info.begin != position:
            word = "overlaps" if info.begin < position else "leaves a hole after"
            raise TensorError(
                "safetensors.overlap" if info.begin < position else "safetensors.hole",
                f"`{path}`: tensor `{info.name}` (byte {info.begin}) {word} {before}"
                f" (which ends at byte {position})",
                "the file is damaged or hostile",
                tensor=info.name,
            )
        position, before = info.end, f"`{info.name}`"
    if position != size:
        raise BadData(
            "safetensors.trailing",
            f"`{path}`: {size - position} bytes stand after the last tensor (byte {position})",
            "the file is damaged, or something was appended to it",
        )
