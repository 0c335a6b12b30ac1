"""Where the data of an ONNX tensor lies when it is in a file of its own: checked, then read.

`location` is a stranger's path. It stays in the model's folder: nothing absolute, no `..`, no
link of either kind on the way, a regular file, a span inside of it. All of that is known before a
byte is read or a FIFO is opened. One kind of link is followed: in a cache of downloads, where the
model itself is a link to a file called by its hash, to another of these.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitnet_jax.containers.blob import Blob
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.core.errors import few, shown
from bitnet_jax.core.paths import os_failure

_KEYS = ("location", "offset", "length", "checksum", "basepath")
_LONGEST = 4096
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HOSTILE = "the file is damaged or hostile"


@dataclass(frozen=True)
class Span:
    """`length` bytes from `offset` of the file `path`."""

    path: Path
    offset: int
    length: int


class Places:
    """The data files beside one model: each is checked once and opened at its first read."""

    def __init__(self, model: Path):
        self._model = model
        self._folder = model.parent
        self._sizes: dict[str, int] = {}
        self._blobs: dict[Path, Blob] = {}

    def span(self, rows: Mapping[str, str], wanted: int, tensor: str, where: str) -> Span:
        """The span that `external_data` says.

        Args:
          rows: its keys and values.
          wanted: bytes that the tensor's shape and type take.

        Raises:
          TensorError: it leaves the folder, is no plain file, or does not fit
            (``onnx.external_path``, ``onnx.external_link``, ``onnx.external_file``,
            ``onnx.external_missing``, ``onnx.external_span``).
        """
        odd = sorted(set(rows) - set(_KEYS))
        location = rows.get("location")
        if odd or not location:
            raise TensorError(
                "onnx.external_span",
                f"{where}: its external data has no `location`"
                if not location
                else f"{where}: its external data has the unknown keys {few(odd)}",
                _HOSTILE,
                tensor=tensor,
            )
        size = self._size(location, tensor, where)
        offset = _number(rows.get("offset", "0"), "offset", tensor, where)
        length = _number(rows.get("length", str(wanted)), "length", tensor, where)
        if offset + length > size:
            raise TensorError(
                "onnx.external_span",
                f"{where}: bytes {offset} to {offset + length} of {shown(location)}, which has "
                f"{size}",
                "the data file is cut short, or of another model: copy both again",
                tensor=tensor,
            )
        if length != wanted:
            raise TensorError(
                "onnx.external_span",
                f"{where}: {length} bytes of external data, and its shape takes {wanted}",
                _HOSTILE,
                tensor=tensor,
            )
        return Span(self._folder / location, offset, length)

    @property
    def names(self) -> tuple[str, ...]:
        """Every data file that was asked for, as the model calls it."""
        return tuple(sorted(self._sizes))

    def read(self, span: Span) -> np.ndarray:
        """The bytes of a span, uint8, 64-byte aligned."""
        if span.path not in self._blobs:
            self._blobs[span.path] = Blob(span.path)
        return self._blobs[span.path].read(span.offset, span.length)

    def _size(self, location: str, tensor: str, where: str) -> int:
        if location not in self._sizes:
            self._sizes[location] = self._check(location, tensor, where)
        return self._sizes[location]

    def _check(self, location: str, tensor: str, where: str) -> int:
        parts = check_location(location, tensor, where)
        found = self._folder
        for index, part in enumerate(parts):
            found = found / part
            try:
                info = os.lstat(found)
            except FileNotFoundError as error:
                raise TensorError(
                    "onnx.external_missing",
                    f"{where}: its data lies in {shown(location)}, and `{self._folder}` has none",
                    "an ONNX model may be several files: copy the data file beside it too",
                    tensor=tensor,
                ) from error
            except NotADirectoryError as error:
                raise _no_file(location, "not a regular file", tensor, where) from error
            except OSError as error:
                raise os_failure(error, "read", found) from error
            last = index == len(parts) - 1
            if last and (blobs := _blobs(found)) and blobs == _blobs(self._model):
                info = os.stat(found)
            if last and not stat.S_ISREG(info.st_mode) and not stat.S_ISLNK(info.st_mode):
                raise _no_file(location, "not a regular file", tensor, where)
            if stat.S_ISLNK(info.st_mode) or (last and info.st_nlink > 1):
                kind = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "one of several links"
                raise TensorError(
                    "onnx.external_link",
                    f"{where}: its data lies in {shown(location)}, where `{part}` is {kind}: what "
                    "it shows may be any file of this machine",
                    "where you trust it, put a copy of the data in its place (cp -L)",
                    tensor=tensor,
                )
        return info.st_size


def check_location(location: str, tensor: str, where: str) -> list[str]:
    """The parts of a plain path inside the model's folder.

    Raises:
      TensorError: it is none (code ``onnx.external_path``).
    """
    parts = location.split("/")
    bad = (
        len(location) > _LONGEST
        or "\\" in location
        or ":" in location
        or any(ord(letter) < 32 for letter in location)
        or any(part in ("", "..") for part in parts)
    )
    if bad:
        raise TensorError(
            "onnx.external_path",
            f"{where}: its data is said to lie in {shown(location)}, which is no plain path "
            "inside the model's folder",
            _HOSTILE,
            tensor=tensor,
        )
    return parts


def _blobs(path: Path) -> Path | None:
    """The folder of a download cache's contents that a link leads into; None of anything else.

    ``snapshots/<commit>/model.onnx`` is a link to ``blobs/<hash>`` there: what a stranger has put
    into such a cache are contents, and no links.
    """
    if not path.is_symlink():
        return None
    target = Path(os.path.realpath(path))
    return target.parent if target.parent.name == "blobs" and _HASH.fullmatch(target.name) else None


def _no_file(location: str, what: str, tensor: str, where: str) -> TensorError:
    return TensorError(
        "onnx.external_file",
        f"{where}: its data lies in {shown(location)}, which is {what}",
        _HOSTILE,
        tensor=tensor,
    )


def _number(text: str, key: str, tensor: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise TensorError(
            "onnx.external_span",
            f"{where}: the {key} of its external data is {shown(text)}, no number of bytes",
            _HOSTILE,
            tensor=tensor,
        )
    return int(text)
