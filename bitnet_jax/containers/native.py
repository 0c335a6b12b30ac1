"""Reading `.bitnet` files, version 1 (docs/formats/bitnet.md is the specification).

A `.bitnet` file is a safetensors file: codes and floats under their names, every
scale in ``__scales__``, other files as ``__file__.<name>``. Everything is covered
by a checksum, the header too: neither safetensors nor the file system notices a
flipped bit. Knows codes and scales as arrays, not what a model is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from bitnet_jax.containers import native_table as table
from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.safetensors import SafetensorsFile, open_safetensors
from bitnet_jax.containers.safetensors_write import PAD_PREFIX
from bitnet_jax.core.errors import BadData, shown

FORMAT = "bitnet"
VERSION = 1
SCALES = "__scales__"
FILE_PREFIX = "__file__."
RESERVED = "__"
ZERO_CHECKSUM = "0" * 16
# Features a file may name in `must_understand`; a reader refuses the others.
FEATURES: tuple[str, ...] = ()

_DAMAGED = "the file is damaged: download or copy it again"


def checksum(data: np.ndarray) -> str:
    """XXH3-64 of the bytes of `data`, 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(memoryview(data.reshape(-1).view(np.uint8)))


def header_checksum(header: bytes, stated: str) -> str:
    """XXH3-64 of the header with its own 16 digits (`stated`) replaced by zeros."""
    text = b'"header_checksum":"%s"'
    blank = header.replace(text % stated.encode(), text % ZERO_CHECKSUM.encode())
    return xxhash.xxh3_64_hexdigest(blank)


def is_native(file: SafetensorsFile) -> bool:
    """True for a safetensors file that says it is a `.bitnet` file."""
    return file.metadata.get("format") == FORMAT


@dataclass
class NativeFile:
    """An open `.bitnet` file: its header, checked, and its tensors, read when asked.

    Attributes:
      spec: the model's spec, JSON.
      rows: the ternary tensors; `floats`: names of the others.
      files: names of the files it carries.
      digests: ``trits`` and ``trits_scales`` as the writer computed them.
      origin: what the source was, in the writer's words.
      metadata: what the model says of itself, a JSON object; empty where the file has none.
      verify: compare checksums when reading.
    """

    safetensors: SafetensorsFile
    spec: dict[str, Any]
    rows: dict[str, table.Row]
    floats: tuple[str, ...]
    files: tuple[str, ...]
    digests: dict[str, str]
    checksums: dict[str, str]
    producer: str
    origin: dict[str, Any]
    verify: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)
    _scales: np.ndarray | None = None
    _lock: Any = field(default_factory=threading.Lock)

    @property
    def where(self) -> str:
        """The file in the words of an error."""
        return f"`{self.safetensors.path}`"

    def read_float(self, name: str) -> np.ndarray:
        """Reads a float tensor in its own dtype."""
        return self._verified(name)

    def float_parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Reads a float matrix `rows` rows at a time, each piece into the same memory.

        Take all of them: only then it is known whether any was right.

        Raises:
          BadData: after the last piece, as `read_float`.
        """
        found = xxhash.xxh3_64()
        for part in self.safetensors.parts(name, rows):
            if self.verify:
                found.update(memoryview(part.reshape(-1).view(np.uint8)))
            yield part
        if self.verify:
            self._compare(name, found.hexdigest())

    def read_tensor(self, name: str) -> np.ndarray:
        """Reads any tensor of the file as it stands there: codes and all scales too."""
        return self._verified(name)

    def read_file(self, name: str) -> bytes:
        """Reads one of `files`."""
        return self._verified(FILE_PREFIX + name).tobytes()

    def read_codes(self, name: str) -> np.ndarray:
        """Reads the codes of a ternary tensor; each is a legal trit."""
        codes = self._verified(name)
        table.check_codes(name, codes, self.rows[name], self.where)
        return codes

    def read_scale(self, name: str) -> np.ndarray:
        """Returns the scales of a ternary tensor, float32; each is positive and finite."""
        with self._lock:  # all scales are one tensor: read and checked once
            if self._scales is None:
                self._scales = self._verified(SCALES)
        row = self.rows[name]
        offset, length = row.scales
        scale = self._scales[offset : offset + length].reshape(row.scale_shape).copy()
        table.check_scales(name, scale, self.where)
        return scale

    def verify_all(self) -> None:
        """Reads everything and compares every checksum, padding included."""
        self.check_padding()
        for name in self.checksums:
            self._verified(name, force=True)
        for name in self.rows:
            self.read_codes(name)
            self.read_scale(name)

    def check_padding(self) -> None:
        """Raises unless the bytes between tensors are zero: no checksum covers them."""
        for name in self.safetensors.tensors:
            if name.startswith(PAD_PREFIX) and self.safetensors.read_bytes(name).any():
                raise self._mismatch(name, "its padding is not zero")

    def _verified(self, name: str, force: bool = False) -> np.ndarray:
        data = self.safetensors.read(name)
        if self.verify or force:
            self._compare(name, checksum(data))
        return data

    def _compare(self, name: str, found: str) -> None:
        if found != self.checksums[name]:
            raise self._mismatch(
                name, f"its checksum is {found}, the header says {shown(self.checksums[name])}"
            )

    def _mismatch(self, name: str, reason: str) -> TensorError:
        info = self.safetensors.info(name)
        return TensorError(
            "bitnet.checksum",
            f"{self.where}: tensor `{name}` (bytes {info.begin}-{info.end}) was altered: {reason}",
            _DAMAGED + ", or convert again from the source",
            tensor=name,
        )


def open_native(path: os.PathLike | str, verify: bool = True) -> NativeFile:
    """Opens a `.bitnet` file and checks its whole header; reads no tensor."""
    return parse_native(open_safetensors(path), verify)


def parse_native(file: SafetensorsFile, verify: bool = True) -> NativeFile:
    """Checks the header of an open safetensors file as `.bitnet`.

    Raises:
      BadData: not a `.bitnet` file, of a version or feature not known, or damaged.
    """
    where, metadata = f"`{file.path}`", file.metadata
    if not is_native(file):
        raise BadData(
            "bitnet.format",
            f"{where} is a safetensors file, not a `.bitnet` file",
            "pass the directory that holds its config.json",
        )
    if metadata.get("version") != str(VERSION):
        raise BadData(
            "bitnet.version",
            f"{where} is version {shown(metadata.get('version'))}; this reader knows {VERSION}",
            "a newer bitnet-jax wrote it: update this one",
        )
    stated = metadata.get("header_checksum", "")
    if len(stated) != 16 or header_checksum(file.header, stated) != stated:
        raise BadData(
            "bitnet.header_checksum",
            f"{where}: the header was altered (its checksum differs)",
            _DAMAGED,
        )
    parsed = {
        key: _json_object(metadata, key, where)
        for key in ("spec", "tensors", "checksums", "digests", "origin")
    }
    _check_features(metadata, where)
    rows = {name: table.parse_row(name, raw, where) for name, raw in parsed["tensors"].items()}
    _check_tensors(file, rows, parsed["checksums"], where)
    names = [name for name in file.tensors if not name.startswith(RESERVED)]
    native = NativeFile(
        safetensors=file,
        spec=parsed["spec"],
        rows=rows,
        floats=tuple(name for name in names if name not in rows),
        files=tuple(
            name.removeprefix(FILE_PREFIX) for name in file.tensors if name.startswith(FILE_PREFIX)
        ),
        digests=parsed["digests"],
        checksums=parsed["checksums"],
        producer=metadata.get("producer", ""),
        origin=parsed["origin"],
        verify=verify,
        metadata=_json_object(metadata, "metadata", where) if "metadata" in metadata else {},
    )
    if verify:
        native.check_padding()  # a few short reads: most tensors end on a line anyway
    return native


def _json_object(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    if key not in metadata:
        raise BadData("bitnet.metadata", f"{where}: the metadata lacks `{key}`", _DAMAGED)
    place = f"{where}: metadata `{key}`"
    value = load_json(metadata[key].encode(), code="bitnet.metadata", where=place)
    if not isinstance(value, dict):
        raise BadData("bitnet.metadata", f"{place} is no JSON object", _DAMAGED)
    return value


def _check_features(metadata: Mapping[str, str], where: str) -> None:
    needed = load_json(
        metadata.get("must_understand", "[]").encode(),
        code="bitnet.metadata",
        where=f"{where}: metadata `must_understand`",
    )
    unknown = [w for w in needed if w not in FEATURES] if isinstance(needed, list) else [needed]
    if unknown:
        raise BadData(
            "bitnet.unknown_feature",
            f"{where} needs features this reader does not know: "
            + ", ".join(map(shown, unknown[:5])),
            "a newer bitnet-jax wrote it: update this one",
        )


def _check_tensors(
    file: SafetensorsFile, rows: dict[str, table.Row], checksums: dict[str, Any], where: str
) -> None:
    for name in [SCALES, *rows]:
        info = file.info(name)
        wanted = ("U8", rows[name].codes_shape) if name in rows else ("F32", info.shape[:1])
        if (info.dtype, info.shape) != wanted:
            raise TensorError(
                "bitnet.table",
                f"{where}: tensor `{name}` is {info.dtype} {list(info.shape)}, the table asks for "
                f"{wanted[0]} {list(wanted[1])}",
                _DAMAGED,
                tensor=name,
            )
    table.check_slices(rows, file.info(SCALES).shape[0] if file.info(SCALES).shape else -1, where)
    strangers = checksums.keys() - file.tensors.keys()
    if strangers:
        raise BadData(
            "bitnet.table",
            f"{where}: checksums of tensors that are absent: {shown(min(strangers))}",
            _DAMAGED,
        )
    for name in file.tensors:
        known = name == SCALES or name.startswith((PAD_PREFIX, FILE_PREFIX))
        if name.startswith(RESERVED) and not known:
            raise TensorError(
                "bitnet.table",
                f"{where}: the reserved name `{name}` is not known",
                _DAMAGED,
                tensor=name,
            )
        if not name.startswith(PAD_PREFIX) and not isinstance(checksums.get(name), str):
            raise TensorError(
                "bitnet.table", f"{where}: tensor `{name}` has no checksum", _DAMAGED, tensor=name
            )
