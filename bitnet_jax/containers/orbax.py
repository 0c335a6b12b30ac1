"""Reading Orbax checkpoints that nobody vouches for: a tree of names, and arrays read when asked.

A folder with ``_METADATA`` (JSON: the tree) and its arrays, in Zarr 2 or 3, each in a folder of
its own or all in one OCDBT database. Orbax itself would restore the whole tree at once, through
jax, from whatever place the metadata names; here a place is made of the tree's own keys, links and
special files are refused before anything is opened, and a chunk that is missing is an error, not
zeros. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import Blob, load_json
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.core.letters import spelled_out
from bitnet_jax.core.outputs import os_failure

METADATA = "_METADATA"
# What Orbax calls a checkpoint that it is still writing.
UNFINISHED = ".orbax-checkpoint-tmp"
_MANIFEST = "manifest.ocdbt"
_MOST_METADATA = 256 << 20
_MOST_FILES = 1 << 20
# A chunk is made in memory as a whole: one that is much larger than its array is no writer's.
_SPARE_CHUNK = 1 << 20
_AGAIN = "copy the whole checkpoint again; an older step may stand beside it"
# What tensorstore raises: its own statuses as ValueError, the rest from reading hostile JSON.
_FAULTS = (ValueError, TypeError, KeyError, IndexError, NotImplementedError, RuntimeError, OSError)
_PLAIN_KEY = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff]{1,512}")


def files_in(folder: Path) -> list[str]:
    """Every file below `folder`, by its path in it, `/` between the parts.

    Raises:
      BadData: there is a link, or what is neither file nor folder (``orbax.link``): a checkpoint
        has none, and what they lead to is not the checkpoint's.
    """
    found: list[str] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise os_failure(error, "read", here) from error
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                found.append(Path(entry.path).relative_to(folder).as_posix())
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                raise BadData(
                    "orbax.link",
                    f"`{entry.path}` is {kind}; a checkpoint of Orbax holds files and folders",
                    "copy what it stands for in its place, if you trust it",
                )
        if len(found) > _MOST_FILES:
            raise BadData("orbax.files", f"`{folder}` holds more than {_MOST_FILES} files")
    return sorted(found)


@dataclass(frozen=True)
class OrbaxArray:
    """One array of a tree, open; its numbers are read when asked."""

    name: str
    where: str
    _store: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As its own metadata state it."""
        return tuple(self._store.shape)

    @property
    def dtype(self) -> np.dtype:
        """The numpy dtype of its elements."""
        return np.dtype(self._store.dtype.numpy_dtype)

    @property
    def _chunk_rows(self) -> int:
        return int(self._store.chunk_layout.read_chunk.shape[0])

    def read(self, name: str = "") -> np.ndarray:
        """The whole of it; `name` is for readers of many, and not looked at."""
        return self._read(self._store)

    def read_prefix(self, name: str, count: int) -> np.ndarray:
        """At most its first `count` elements, as a vector."""
        rows = -(-count // max(math.prod(self.shape[1:]), 1)) if self.shape else 1
        part = self._store[: min(rows, self.shape[0])] if self.shape else self._store
        return self._read(part).reshape(-1)[:count]

    def parts(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """A matrix some rows at a time; no more chunks than these touch are held."""
        total = self.shape[0]
        # A chunk is read as a whole, so that less than one at a time would read it again.
        at_once = max(rows, self._chunk_rows) // rows * rows
        if at_once % self._chunk_rows and self._chunk_rows > rows:
            at_once = total
        for start in range(0, total, at_once):
            block = self._read(self._store[start : min(start + at_once, total)])
            for at in range(0, len(block), rows):
                yield block[at : at + rows]

    def _read(self, store: Any) -> np.ndarray:
        with _damage(self.where, self.name):
            return np.ascontiguousarray(store.read().result())


class OrbaxTree:
    """The tree of one folder with ``_METADATA``: the names of its leaves, each to be opened.

    Attributes:
      names: of the leaves that are arrays or numbers: their keys with a dot between.
      filled: chunks that are not there stand for zeros; a writer may have left them out.
    """

    def __init__(self, folder: Path):
        """Reads the metadata, and no array.

        Raises:
          BadData: the folder is no such tree, is unfinished, holds links, or its metadata are
            damaged or hostile (``orbax.…``).
        """
        self.folder, self.where = folder, f"`{folder}`"
        if UNFINISHED in str(folder.name):
            raise BadData(
                "orbax.unfinished",
                f"{self.where} was being written when its process ended",
                "take an older step",
            )
        self.files = files_in(folder)
        raw = read_json(folder / METADATA)
        tree = raw.get("tree_metadata")
        if not isinstance(tree, dict):
            raise _metadata(self.where, "it has no `tree_metadata`")
        self._zarr3 = raw.get("use_zarr3", False) is True
        self._ocdbt = raw.get("use_ocdbt", _MANIFEST in self.files) is True
        self.filled = raw.get("store_array_data_equal_to_fill_value", False) is not True
        if self._ocdbt and _MANIFEST not in self.files:
            raise BadData(
                "orbax.missing_file", f"{self.where} lacks its {_MANIFEST}, so no array", _AGAIN
            )
        self.names: tuple[str, ...] = tuple(self._leaves(tree))
        self._known = frozenset(self.names)

    def _leaves(self, tree: Mapping[str, Any]) -> Iterator[str]:
        seen: set[str] = set()
        for row in tree.values():
            value = row.get("value_metadata") if isinstance(row, dict) else None
            keys = row.get("key_metadata") if isinstance(row, dict) else None
            if not isinstance(value, dict) or not isinstance(keys, list) or not keys:
                raise _metadata(self.where, f"a leaf is described as {shown(row)}")
            parts = [key.get("key") if isinstance(key, dict) else None for key in keys]
            texts = [str(part) if isinstance(part, int) else part for part in parts]
            for text in texts:
                plain = isinstance(text, str) and _PLAIN_KEY.fullmatch(text)
                if not plain or text in (".", ".."):
                    raise _metadata(
                        self.where, f"a key is {shown(text)}, which names no leaf of a tree"
                    )
            name = ".".join(map(str, texts))
            if name in seen:
                raise _metadata(self.where, f"two leaves are called `{name}`")
            seen.add(name)
            if value.get("skip_deserialize") is not True and value.get("value_type") != "string":
                yield name

    def open(self, name: str) -> OrbaxArray:
        """Opens one leaf; reads its description alone.

        Raises:
          BadData: it is missing or damaged, or described as what no writer makes.
        """
        if name not in self._known:
            raise TensorError(
                "orbax.missing_array", f"{self.where} has no array `{name}`", tensor=name
            )
        if not self._ocdbt and not any(file.startswith(f"{name}/") for file in self.files):
            raise TensorError(
                "orbax.missing_array",
                f"{self.where}: its tree names `{name}`, and there is no folder of that name",
                _AGAIN,
                tensor=name,
            )
        spec = {
            "driver": "zarr3" if self._zarr3 else "zarr",
            "kvstore": {**self._store, "path": self._path(name)},
            "fill_missing_data_reads": self.filled,
        }
        with _damage(self.where, name):
            import tensorstore

            store: Any = tensorstore.open(spec, open=True, read=True).result()
            chunk = store.chunk_layout.read_chunk.shape or (1,)
            dtype = np.dtype(store.dtype.numpy_dtype)
            if dtype.hasobject or math.prod(chunk) > 4 * math.prod(store.shape) + _SPARE_CHUNK:
                raise ValueError(f"it is described as {dtype} {store.shape} in chunks of {chunk}")
        return OrbaxArray(name, self.where, store)

    @cached_property
    def _store(self) -> dict[str, Any]:
        root = str(self.folder.absolute())
        base = {"driver": "file", "path": f"{root}/"}
        return {"driver": "ocdbt", "base": base} if self._ocdbt else {"driver": "file"}

    def _path(self, name: str) -> str:
        return f"{name}/" if self._ocdbt else f"{self.folder.absolute()}/{name}/"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
      NoInput, BadData: it is not there, or is none (``orbax.metadata``).
    """
    blob = Blob(path)
    if blob.size > _MOST_METADATA:
        raise _metadata(f"`{path}`", f"it has {blob.size} bytes")
    raw = load_json(blob.read(0, blob.size).tobytes(), code="orbax.metadata", where=f"`{path}`")
    if not isinstance(raw, dict):
        raise _metadata(f"`{path}`", "it is no JSON object")
    return raw


def _metadata(where: str, what: str) -> BadData:
    return BadData("orbax.metadata", f"the metadata of {where} are damaged: {what}", _AGAIN)


@contextlib.contextmanager
def _damage(where: str, name: str) -> Iterator[None]:
    """Turns what the storage library raises into `BadData` that names the array."""
    try:
        yield
    except BadData:
        raise
    except _FAULTS as error:
        # Its messages end in a dump of everything that it was asked for.
        words = spelled_out(re.split(r" \[(?:tensorstore_spec|source locations)", str(error))[0])
        raise TensorError(
            "orbax.array",
            f"{where}: `{name}` cannot be read: {words[:300]}",
            _AGAIN,
            tensor=name,
        ) from error
