"""Memory in pages of a size that was asked for, and how much memory there is.

`madvise` and control groups are Linux's: elsewhere the system chooses its pages, and the limits
are those that it tells. Knows nothing of what is kept there.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from bitnet_jax.core.memory import address_space_left

HUGE = 2 << 20
_ADVICE = {True: "MADV_HUGEPAGE", False: "MADV_NOHUGEPAGE"}
# A limit of the control group, and what of it is taken: the second version, then the first.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def buffer(size: int, *, huge: bool) -> np.ndarray:
    """Returns `size` zero bytes, each page of them present, at a 2 MiB boundary.

    Args:
      huge: ask for 2 MiB pages, or for small ones; the system may know better.
    """
    region = mmap.mmap(-1, size + HUGE)
    advice = getattr(mmap, _ADVICE[huge], None)
    if advice is not None and hasattr(region, "madvise"):
        try:
            region.madvise(advice)
        except OSError:
            advice = None  # a kernel without such pages: it gives what it has
    whole = np.frombuffer(region, np.uint8)
    start = -whole.ctypes.data % HUGE
    held = whole[start : start + size]
    held[:: mmap.PAGESIZE] = 1  # a page that was never written is one shared page of zeros
    return held


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
