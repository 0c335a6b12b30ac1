"""Memory in pages of a size that was asked for, and how much memory there is.

`madvise` and control groups are Linux's: elsewhere the system chooses its pages, and the limits
are those that it tells. Knows nothing of what is kept there.
"""

from __future__ import annotations

import contextlib
import mmap
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.memory import address_space_left

HUGE = 2 << 20
_SMALL = 4096
ALIGNMENT = 64
# Small arrays share an area of this size.
AREA = 8 * HUGE
_POSIX = hasattr(mmap, "MAP_PRIVATE")
_ADVICE = {True: "MADV_HUGEPAGE", False: "MADV_NOHUGEPAGE"}
# A limit of the control group, and what of it is taken: the second version, then the first.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def buffer(size: int, *, huge: bool = True) -> np.ndarray:
    """Returns `size` bytes at a 2 MiB boundary: zeros, whose pages come when they are written.

    Args:
      huge: ask for 2 MiB pages, or for small ones; the system may know better.

    Raises:
      MemoryError: there are none left.
    """
    # Private: what processes could share has no large pages.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if _POSIX else {}
    try:
        region = mmap.mmap(-1, size + HUGE, **private)
    except OSError as error:
        raise MemoryError(f"no {size} bytes of memory: {error}") from error
    advice = getattr(mmap, _ADVICE[huge], None)
    if advice is not None:
        # A kernel built without such pages answers with an error: it gives what it has.
        with contextlib.suppress(OSError):
            region.madvise(advice)
    whole = np.frombuffer(region, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + size]


def touched(region: np.ndarray) -> np.ndarray:
    """`region`, a `buffer`, with each of its pages present, and no two of them alike.

    Pages that are alike may be one page to whoever runs this machine: then a buffer of any size is
    read from a cache (seen: 512 MiB at 110 GB/s, where memory gave 10).
    """
    words = region[: region.size // 8 * 8].view(np.uint64)[:: _SMALL // 8]
    words[:] = np.arange(1, words.size + 1, dtype=np.uint64)
    return region


class Pages:
    """Areas of memory that arrays are cut from; an area lives as long as an array in it.

    A decode step reads all weights once; with 2 MiB pages the processor looks up a
    five-hundredth of the addresses, worth 1.2 to 1.5 times the speed.
    """

    def __init__(self) -> None:
        self._area = np.empty(0, np.uint8)
        self._used = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of unspecified values.

        Raises:
          MemoryError: there is no memory left.
        """
        size = prod(shape) * dtype.itemsize
        if size >= AREA:  # by itself, so that it goes when nobody holds it any more
            return buffer(size).view(dtype).reshape(shape)
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + size > self._area.size:
            self._area, start = buffer(AREA), 0
        self._used = start + size
        return self._area[start : start + size].view(dtype).reshape(shape)


def is_held(array: np.ndarray) -> bool:
    """True for an array that lies in a `buffer`, or in an area of `Pages`."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return isinstance(base, mmap.mmap)


def page_sizes() -> tuple[bool, ...]:
    """The values of `huge` that make a difference here: both, or only what the system gives."""
    return (True, False) if hasattr(mmap, _ADVICE[True]) else (False,)


def huge_pages() -> str:
    """How this system gives 2 MiB pages: ``always``, ``madvise``, ``never``, or ``unknown``."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("ascii")
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or "unknown"


def memory_available() -> int:
    """Bytes that this process may still take without driving others out: the least that holds."""
    import psutil

    found = [int(psutil.virtual_memory().available)]
    left = address_space_left()
    if left is not None:
        found.append(left)
    for limit, used in _GROUPS:
        try:
            found.append(int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii")))
        except (OSError, ValueError):
            continue  # there is no such group, or it says `max`
    return max(min(found), 0)


def peak_resident(pid: int) -> int | None:
    """The most memory that a process held so far, in bytes; None if there is no such process.

    Where the system keeps no such mark, what it holds now.
    """
    import psutil

    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", errors="replace")
    except OSError:
        status = ""  # no procfs, or no such process
    mark = status.partition("VmHWM:")[2].split()
    if mark:
        return int(mark[0]) * 1024
    try:
        held = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return None
    return int(getattr(held, "peak_wset", held.rss))
