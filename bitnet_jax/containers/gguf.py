"""Reading GGUF files that nobody vouches for, versions 2 and 3, little-endian.

As `gguf.GGUFReader`, but every count and length is compared with what the file holds before
anything is made for it, names stand once, tensors lie one after another without overlap, and
nothing is mapped. The header is parsed without reading a tensor; a tensor's bytes are read
when asked. Knows nothing of models, and not what the blocks of a type mean.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.containers import gguf_types as types
from bitnet_jax.containers.blob import Blob
from bitnet_jax.containers.errors import TensorError, find_row
from bitnet_jax.containers.gguf_types import TensorType
from bitnet_jax.containers.sniff import HEAD, wrong_kind
from bitnet_jax.core.errors import BadData, shown

# Far above any model's (a vocabulary of 256,000 with its merges takes 20 MB).
MAX_HEADER = 512 << 20
MAX_TENSORS = 1 << 18
MAX_KEYS = 1 << 16
MAX_STRINGS = 1 << 22
MAX_NAME = 64  # ggml's own limit, the closing zero included
MAX_KEY = 65535
MAX_RANK = 4
_MAX_SPAN = (1 << 63) - 1
_PIECE = 1 << 20
_DAMAGED = "the file is damaged or hostile: download or copy it again"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a header.

    Invariants: `shape` is numpy's order (the last axis is contiguous; the file has them the
    other way round); `end - begin` is what the type takes for it.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.begin


class GgufFile:
    """An open file: `metadata`, `tensors` (in the order of their data) and reads.

    Attributes:
      metadata: values by key: int, float, bool, str, a list of str, or a numpy vector.
    """

    def __init__(
        self,
        blob: Blob,
        version: int,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, TensorInfo],
    ):
        self._blob = blob
        self.path = blob.path
        self.size = blob.size
        self.version = version
        self.metadata = metadata
        self.tensors = tensors

    def viewed(self, tensors: Mapping[str, TensorInfo]) -> GgufFile:
        """The same file with other ranges of it as its tensors."""
        return GgufFile(self._blob, self.version, self.metadata, tensors)

    def info(self, name: str) -> TensorInfo:
        """Returns the header's row of `name`.

        Raises:
          BadData: there is none (code ``gguf.missing``).
        """
        return find_row(self.tensors, name, "gguf.missing", f"`{self.path}` has no tensor `{name}`")

    def read_bytes(self, name: str) -> np.ndarray:
        """Returns the data of `name` as a 64-byte aligned uint8 vector."""
        info = self.info(name)
        return self._blob.read(info.begin, info.nbytes)

    def parts(self, name: str, rows: int, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Reads a matrix of `dtype` some rows at a time, each piece into the same memory."""
        info = self.info(name)
        of_row = info.nbytes // info.shape[0]
        held = self._blob.empty(min(rows, info.shape[0]) * of_row)
        for at in range(0, info.shape[0], rows):
            part = held[: min(rows, info.shape[0] - at) * of_row]
            self._blob.read_into(info.begin + at * of_row, part)
            yield part.view(dtype).reshape(-1, *info.shape[1:])

    def read_prefix(self, name: str, nbytes: int) -> np.ndarray:
        """Returns at most the first `nbytes` bytes of `name`."""
        info = self.info(name)
        return self._blob.read(info.begin, min(nbytes, info.nbytes))


class _Cursor:
    """Reads forward through the header, a piece at a time; refuses what the file has not."""

    def __init__(self, blob: Blob):
        self._blob = blob
        self._piece = b""
        self._start = 0
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file, or of what a header may take."""
        return min(self._blob.size, MAX_HEADER) - self.at

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if count > self.left:
            over = self._blob.size > MAX_HEADER
            raise BadData(
                "gguf.header_length" if over else "gguf.truncated",
                f"`{self._blob.path}`: {what} at byte {self.at} claims {count} bytes, "
                + (
                    f"beyond the {MAX_HEADER >> 20} MB that a header may take"
                    if over
                    else f"the file has {self.left} left"
                ),
                _DAMAGED,
            )
        begin = self.at - self._start
        if begin + count > len(self._piece):
            nbytes = min(max(count, _PIECE), self._blob.size - self.at)
            self._piece = self._blob.read(self.at, nbytes).tobytes()
            self._start, begin = self.at, 0
        self.at += count
        return self._piece[begin : begin + count]

    def number(self, nbytes: int, what: str) -> int:
        """A little-endian whole number."""
        return int.from_bytes(self.take(nbytes, what), "little")

    def text(self, what: str, most: int | None = None) -> str:
        """A string: its length in eight bytes, then UTF-8."""
        length = self.number(8, f"the length of {what}")
        if most is not None and length > most:
            raise self.bad("gguf.string", f"{what} is {length} bytes long (at most {most})")
        data = self.take(length, what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.bad(
                "gguf.string", f"{what} is not UTF-8 (its byte {error.start})"
            ) from error

    def texts(self, count: int, what: str) -> list[str]:
        """As `text`, `count` times: a vocabulary has hundreds of thousands."""
        found = []
        for _ in range(count):
            begin = self.at - self._start + 8
            end = begin + int.from_bytes(self._piece[begin - 8 : begin], "little")
            if begin <= len(self._piece) and end <= len(self._piece):
                try:
                    found.append(self._piece[begin:end].decode())
                    self.at = self._start + end
                    continue
                except UnicodeDecodeError:
                    pass  # told below, with its place
            found.append(self.text(what))
        return found

    def bad(self, code: str, message: str) -> BadData:
        """The error for what stands just before here."""
        return BadData(code, f"`{self._blob.path}`: {message} (byte {self.at})", _DAMAGED)


def open_gguf_file(path: os.PathLike | str) -> GgufFile:
    """Opens `path` and checks its whole header; reads no tensor.

    Raises:
      NoInput, PermissionDenied, IOFailure: from the operating system.
      BadData: anything else: see the codes ``file.*`` and ``gguf.*``.
    """
    blob = Blob(path)
    cursor = _Cursor(blob)
    if blob.size < 4 or cursor.take(4, "the magic") != types.MAGIC:
        raise wrong_kind(path, blob.read(0, min(HEAD, blob.size)).tobytes(), "a GGUF file")
    version = cursor.number(4, "the version")
    _check_version(version, path)
    tensor_count = cursor.number(8, "the number of tensors")
    key_count = cursor.number(8, "the number of keys")
    # What one takes at least: an empty name; an empty key and a byte.
    for count, least, most, what in (
        (tensor_count, 8 + 4 + 8 + 4 + 8, MAX_TENSORS, "tensors"),
        (key_count, 8 + 4 + 1, MAX_KEYS, "keys"),
    ):
        if count > most or count * least > cursor.left:
            raise BadData(
                "gguf.count",
                f"`{path}` claims {count} {what}; it has {blob.size} bytes",
                _DAMAGED,
            )
    metadata = _metadata(cursor, key_count)
    rows = [_row(cursor) for _ in range(tensor_count)]
    alignment = _alignment(metadata, path)
    start = cursor.at + -cursor.at % alignment
    infos: dict[str, TensorInfo] = {}
    for row in rows:
        info = _tensor(row, start, alignment, blob.size, path)
        if info.name in infos:
            raise _tensor_error("gguf.duplicate", path, info.name, "its name stands twice")
        infos[info.name] = info
    ordered = sorted(infos.values(), key=lambda info: (info.begin, info.end))
    _check_cover(ordered, cursor.at, start, alignment, blob)
    return GgufFile(blob, version, metadata, {info.name: info for info in ordered})


def _check_version(version: int, path: os.PathLike | str) -> None:
    if version in types.VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in (1, *types.VERSIONS):
        raise BadData(
            "gguf.big_endian",
            f"`{path}` is a big-endian GGUF file (version {swapped})",
            "it was made for s390x or the like: take the little-endian file of the same model, or "
            "turn it with llama.cpp's gguf_convert_endian.py",
        )
    raise BadData(
        "gguf.version",
        f"`{path}` is GGUF version {version}; this reader knows 2 and 3",
        "version 1 counted in 32 bits and is obsolete: convert again from the original"
        if version == 1
        else "a newer llama.cpp wrote it, or it is damaged",
    )


# ----------------------------------------------------------------------------- metadata


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text("a key", MAX_KEY)
        if not key or any(ord(letter) < 32 for letter in key):
            raise cursor.bad("gguf.key", f"the key {shown(key)} is no name")
        if key in found:
            raise cursor.bad("gguf.duplicate", f"the key {shown(key)} stands twice")
        found[key] = _value(cursor, cursor.number(4, "a type"), key)
    return found


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    what = f"the value of {shown(key)}"
    if kind == types.STRING:
        return cursor.text(what)
    if kind == types.ARRAY:
        return _array(cursor, what)
    if kind not in types.SCALARS:
        raise cursor.bad("gguf.value_type", f"{what} is of the unknown type {kind}")
    dtype = types.SCALARS[kind]
    value = np.frombuffer(cursor.take(dtype.itemsize, what), dtype)[0]
    if kind == types.BOOL:
        if value > 1:
            raise cursor.bad("gguf.value", f"{what} is a truth of value {int(value)}")
        return bool(value)
    return value.item() if dtype.kind != "f" else float(value)


def _array(cursor: _Cursor, what: str) -> Any:
    kind = cursor.number(4, f"the type of {what}")
    count = cursor.number(8, f"the length of {what}")
    if kind == types.STRING:
        if count > MAX_STRINGS or count * 8 > cursor.left:
            raise cursor.bad("gguf.count", f"{what} claims {count} strings")
        return cursor.texts(count, what)
    if kind not in types.SCALARS:
        nested = "an array of arrays" if kind == types.ARRAY else f"of the unknown type {kind}"
        raise cursor.bad("gguf.value_type", f"{what} is {nested}")
    dtype = types.SCALARS[kind]
    values = np.frombuffer(cursor.take(count * dtype.itemsize, what), dtype)
    if kind == types.BOOL:
        if (values > 1).any():
            raise cursor.bad("gguf.value", f"{what} holds a truth that is neither 0 nor 1")
        return values.astype(np.bool_)
    return values


def _alignment(metadata: Mapping[str, Any], path: os.PathLike | str) -> int:
    value = metadata.get(types.ALIGNMENT_KEY, types.DEFAULT_ALIGNMENT)
    good = isinstance(value, int) and not isinstance(value, bool) and 8 <= value <= 1 << 16
    if not good or value & (value - 1):
        raise BadData(
            "gguf.alignment",
            f"`{path}`: {types.ALIGNMENT_KEY} is {shown(value)}; it must be a power of two from 8 "
            "to 65536",
            _DAMAGED,
        )
    return value


# ------------------------------------------------------------------------------ tensors

_Row = tuple[str, list[int], int, int]


def _row(cursor: _Cursor) -> _Row:
    """Name, sizes as the file has them, type, offset; only their lengths are checked."""
    name = cursor.text("a tensor's name", MAX_NAME)
    rank = cursor.number(4, "the rank of a tensor")
    if rank > MAX_RANK:
        raise cursor.bad("gguf.shape", f"tensor {shown(name)} has rank {rank} (at most 4)")
    sizes = [cursor.number(8, "a size of a tensor") for _ in range(rank)]
    return name, sizes, cursor.number(4, "a tensor's type"), cursor.number(8, "an offset")


def _tensor_error(code: str, path: os.PathLike | str, name: str, message: str) -> TensorError:
    short = ascii(name)[1:-1]
    return TensorError(code, f"`{path}`, tensor `{short}`: {message}", _DAMAGED, tensor=short)


def _tensor(
    row: _Row, start: int, alignment: int, size: int, path: os.PathLike | str
) -> TensorInfo:
    """Checks one row. All arithmetic is on Python integers: nothing can overflow."""
    name, sizes, number, offset = row

    def bad(code: str, message: str) -> TensorError:
        return _tensor_error(code, path, name, message)

    if not name or any(ord(letter) < 32 for letter in name):
        raise bad("gguf.name", "its name is empty or holds a control character")
    kind = types.BY_ID.get(number)
    if kind is None:
        known = ", ".join(types.TYPES)
        raise TensorError(
            "gguf.type",
            f"`{path}`, tensor `{name}`: its type is {number}"
            + (f" ({types.OTHERS[number]})" if number in types.OTHERS else "")
            + f", which is not read here; known: {known}",
            "take a file of one of the known types, or the original",
            tensor=name,
        )
    shape = tuple(reversed(sizes)) or (1,)
    if 0 in shape or math.prod(shape) * 8 > _MAX_SPAN:
        raise bad("gguf.shape", f"shape {shown(list(shape))} is empty or overflows")
    if shape[-1] % kind.block:
        raise bad(
            "gguf.shape",
            f"its rows have {shape[-1]} elements, no multiple of {kind.name}'s {kind.block}",
        )
    if offset % alignment:
        raise bad("gguf.offset", f"its offset {offset} is no multiple of {alignment}")
    begin, nbytes = start + offset, kind.size(shape)
    if begin + nbytes > size:
        raise bad(
            "gguf.truncated",
            f"its data ends at byte {begin + nbytes}, the file at byte {size}: it is cut short",
        )
    return TensorInfo(name, kind, shape, begin, begin + nbytes)


def _check_cover(
    infos: list[TensorInfo], header: int, start: int, alignment: int, blob: Blob
) -> None:
    """Tensors lie one after another, zeros up to the alignment between them, nothing after."""
    position, before = header, "the header"
    for info in infos:
        wanted = max(start, position + -position % alignment)
        if info.begin != wanted:
            raise _tensor_error(
                "gguf.overlap" if info.begin < wanted else "gguf.hole",
                blob.path,
                info.name,
                f"it begins at byte {info.begin}; {before} ends at byte {position}, so it must "
                f"begin at byte {wanted}",
            )
        _check_padding(blob, position, info.begin)
        position, before = info.end, f"`{info.name}`"
    if blob.size - position >= alignment + (not infos) * alignment:
        raise BadData(
            "gguf.trailing",
            f"`{blob.path}`: {blob.size - position} bytes stand after {before} (byte {position})",
            "the file is damaged, or something was appended to it",
        )
    _check_padding(blob, position, blob.size)


def _check_padding(blob: Blob, begin: int, end: int) -> None:
    if end > begin and blob.read(begin, end - begin).any():
        raise BadData(
            "gguf.padding",
            f"`{blob.path}`: the padding at bytes {begin}-{end} is not zero",
            _DAMAGED,
        )
