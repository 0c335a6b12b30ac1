"""Locks between processes, on files: who writes what, and whether he still lives.

The system drops a lock when its process ends, however it ends, and on whichever host or in
whichever container it ran: so a lock that can be taken means that its writer is gone. The
only file that calls `fcntl` (and `msvcrt`, its like on Windows). Knows nothing of what is
guarded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from bitnet_jax.core.errors import Resumable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

_FLOCK = fcntl is not None

# What a file system without locks answers (some network and FUSE mounts).
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class NoLocks(OSError):
    """The file system has no locks: nobody can tell who writes."""


@contextlib.contextmanager
def lock(path: Path, *, remove: bool = False) -> Iterator[None]:
    """Holds an exclusive lock on `path` (created if missing) for the block.

    Args:
      remove: remove `path` afterwards, unless somebody else holds it by then.

    Raises:
      Resumable: another process holds it (code ``io.busy``).
      NoLocks, OSError: from the operating system.
    """
    fd = -1
    try:
        fd = _open_locked(path)
        yield
    finally:
        with undisturbed():
            if fd >= 0:
                os.close(fd)
            if remove:
                remove_if_free(path)


def _open_locked(path: Path) -> int:
    """A descriptor that holds the lock of the file that stands at `path`."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _take(fd):
                raise Resumable(
                    "io.busy", f"another process holds `{path}`", "wait for it, then run again"
                )
            if _stands(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # who held it has removed it: this one is nobody's any more


def remove_if_free(path: Path) -> None:
    """Removes a lock's file, unless a process holds it."""
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # it is gone, or another user's
        return
    try:
        # While it is held, so that nobody else believes to hold it; Windows removes it after.
        if _FLOCK and _take(fd) and _stands(fd, path):
            os.unlink(path)
    except OSError:  # a lock file that stays does no harm: the next run takes it
        return
    finally:
        os.close(fd)
    if not _FLOCK:
        with contextlib.suppress(OSError):  # somebody has it open
            os.unlink(path)


def _take(fd: int) -> bool:
    """Takes the lock of an open file; False where another holds it."""
    try:
        if _FLOCK:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocks(error.errno, "the file system has no locks") from error
        if isinstance(error, BlockingIOError | PermissionError):
            return False
        raise
    return True


def _stands(fd: int, path: Path) -> bool:
    """The open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lets no second Ctrl-C or SIGTERM stop the tidying up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: a handler not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
