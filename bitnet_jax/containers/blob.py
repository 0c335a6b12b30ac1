"""Reading pieces of a regular file into aligned memory that this process owns.

Never maps a file: a mapped file that somebody truncates kills the process, a
read one gives an error. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.core.pages import ALIGNMENT, Pages
from bitnet_jax.core.paths import os_failure
from bitnet_jax.core.system import read_at

# What is read in pieces from here on lies on large pages: a first touch of each small one would
# take longer than the reading.
_LARGE = 1 << 20

# Linux moves at most 0x7ffff000 bytes in one call; a round number below it.
_MOST_PER_CALL = 1 << 30

# Of JSON from a stranger: the header of a file of 250,000 tensors, ten times the largest model's.
_MOST_ITEMS = 1 << 22


class Blob:
    """One regular file held open, so that a later rename does not change what is read.

    Invariants: `size` is the size when opened; a read never returns fewer bytes
    than asked (a file that shrank since is `BadData`). Safe for many threads.
    """

    def __init__(self, path: os.PathLike | str):
        self.path = Path(path)
        try:
            # Checked before opening: opening a FIFO would wait for a writer.
            mode = os.stat(self.path).st_mode
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
                raise BadData(
                    "file.not_regular", f"`{path}` is {kind}", "pass the path of a model file"
                )
            fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise os_failure(error, "read", path) from error
        weakref.finalize(self, os.close, fd)
        self._fd = fd
        self._lock = threading.Lock()
        self._pages = Pages()
        self.size = os.fstat(fd).st_size

    def read_into(self, offset: int, buffer: np.ndarray) -> None:
        """Fills the whole uint8 `buffer` from `offset`.

        Raises:
          BadData: the file ends before (code ``file.truncated``).
          IOFailure: the operating system could not read.
        """
        view = memoryview(buffer)
        done = 0
        while done < len(view):
            try:
                count = self._pread(view[done : done + _MOST_PER_CALL], offset + done)
            except OSError as error:
                raise os_failure(error, "read", self.path) from error
            if count == 0:
                raise BadData(
                    "file.truncated",
                    f"`{self.path}` ends at byte {offset + done}, {len(view) - done} bytes short:"
                    " it shrank while it was being read",
                    "copy or download the file again",
                )
            done += count

    def read(self, offset: int, nbytes: int) -> np.ndarray:
        """Returns `nbytes` from `offset` as a fresh 64-byte aligned uint8 array."""
        buffer = self.empty(nbytes)
        self.read_into(offset, buffer)
        return buffer

    def empty(self, nbytes: int) -> np.ndarray:
        """Memory for a read: uint8, 64-byte aligned, of unspecified values."""
        if nbytes >= _LARGE:
            with self._lock:
                return self._pages.empty((nbytes,), np.dtype(np.uint8))
        raw = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + nbytes]

    def _pread(self, view: memoryview, offset: int) -> int:
        return read_at(self._fd, view, offset, self._lock)


def load_json(text: bytes, *, code: str, where: str) -> Any:
    """Parses JSON from a stranger.

    As `json.loads`, but duplicate keys, NaN and Infinity, bad UTF-8 and nesting too
    deep for the parser are all `BadData` with `code`, and so is a text that would take
    gigabytes once it is parsed; `where` names the place.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise _Refused(f"the key {shown(key)} stands twice")
            found[key] = value
        return found

    def constant(word: str) -> Any:
        raise _Refused(f"`{word}` is not JSON")

    try:
        # An empty list is two bytes of text and 60 in memory.
        if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_ITEMS:
            raise _Refused(f"it holds more than {_MOST_ITEMS} items")
        return json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno} column {error.colno} (byte {error.pos})"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # _Refused; an integer of thousands of digits
        reason = str(error)
    raise BadData(code, f"{where} is not valid JSON: {reason}", "the file is damaged or hostile")


class _Refused(ValueError):
    """JSON that Python's parser takes and we do not."""
