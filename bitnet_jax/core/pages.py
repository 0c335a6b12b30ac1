"""Memory that asked for large pages: numpy arrays over it.

A decode step reads all weights once; with 2 MiB pages the processor looks up a five-hundredth
of the addresses, worth 1.2 to 1.5 times the speed. Where the system has none to give, or is
no Linux, the same arrays lie on usual pages. Knows nothing of what is put there.
"""

from __future__ import annotations

import contextlib
import mmap
from math import prod

import numpy as np

PAGE = 2 << 20
ALIGNMENT = 64
_POSIX = hasattr(mmap, "MAP_PRIVATE")
# Small arrays share an area of this size.
AREA = 32 * PAGE


class Pages:
    """Areas of memory that arrays are cut from; an area lives as long as an array in it."""

    def __init__(self) -> None:
        self._area = np.empty(0, np.uint8)
        self._used = 0

    def copy(self, array: np.ndarray) -> np.ndarray:
        """`array` in such memory: C order, 64-byte aligned.

        Raises:
          MemoryError: there is none left.
        """
        place = self.empty(array.shape, array.dtype)
        place[...] = array
        return place

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of unspecified values.

        Raises:
          MemoryError: there is no memory left.
        """
        size = prod(shape) * dtype.itemsize
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + size > self._area.size:
            self._area, start = _area(max(AREA, -(-size // PAGE) * PAGE)), 0
        self._used = start + size
        return self._area[start : start + size].view(dtype).reshape(shape)


def _area(size: int) -> np.ndarray:
    """`size` bytes that start on a large page."""
    try:
        # Private: what is shared between processes has no large pages.
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if _POSIX else {}
        area = mmap.mmap(-1, size + PAGE, **private)
    except OSError as error:
        raise MemoryError(f"no {size} bytes of memory: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A kernel built without them answers with an error: usual pages do.
        with contextlib.suppress(OSError):
            area.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(area, np.uint8)
    start = -whole.ctypes.data % PAGE
    return whole[start : start + size]
