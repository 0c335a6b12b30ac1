"""What only some operating systems have: owners of files, positioned reads, limits of a process.

The one home of such calls beside `paths` (tests/contracts/test_portable.py holds the rest of
the tree to it). Each answers on every system, and says here what it answers where the call
does not exist. Imports the standard library only: the child process that renders chat
templates uses it before it has anything else.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import threading
from pathlib import Path


def foreign_owner(path: Path) -> int | None:
    """The user who owns `path`, if that is neither this user nor root.

    On Windows None: the folders we use there lie in the user's profile, guarded by its ACL.
    """
    if not hasattr(os, "geteuid"):
        return None
    owner = path.stat().st_uid
    return None if owner in (0, os.geteuid()) else owner


def foreign_writers(path: Path) -> int | None:
    """The mode of `path`, if it lets others than its owner write; None on Windows, as above."""
    if not hasattr(os, "geteuid"):
        return None
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & 0o022 else None


def usable_cores() -> int | None:
    """The processors that this process may use; all of them where nobody can say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def read_at(fd: int, view: memoryview, offset: int, guard: threading.Lock) -> int:
    """Reads from `offset` of `fd` into `view`, as many bytes as one call gives; returns how many.

    Windows has no positioned read: there `guard` keeps the place from moving in between.
    """
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    with guard:
        os.lseek(fd, offset, os.SEEK_SET)
        piece = os.read(fd, len(view))
    view[: len(piece)] = piece
    return len(piece)


def can_confine() -> bool:
    """Whether `confine` works here: not on Windows."""
    return importlib.util.find_spec("resource") is not None


def confine(memory: int, seconds: int) -> None:
    """Takes from this process, for good, memory, time, and all new files and processes.

    Raises:
      ImportError: this system cannot do so (see `can_confine`).
    """
    import resource

    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 3,
    }
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))
