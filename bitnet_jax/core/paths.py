"""Writing files so that nobody ever sees half of one; who writes what.

Everything is made under a temporary name and renamed. While it is made, a lock file beside
it keeps other writers out; both are named after the target, so that the next run knows what
a killed one left, and removes it. Makes the POSIX-only calls that files need (directory
fsync, umask, the exchange of two names), as `locks` makes those of locks and `system` the
others. Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bitnet_jax.core.errors import CannotCreate, Resumable
from bitnet_jax.core.locks import NoLocks, lock, remove_if_free, undisturbed
from bitnet_jax.core.outputs import check_kind, check_name, check_output, exists, os_failure
from bitnet_jax.core.writing import new_file

__all__ = [
    "atomic_directory", "atomic_file", "check_name", "check_output", "lock", "make_folder",
    "os_failure", "owned", "resolve_target", "scratch_directory", "sync_file",
]  # fmt: skip

_LOG = logging.getLogger(__name__)


def _umask() -> int:
    # There is no call that only reads the umask.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def resolve_target(path: Path) -> Path:
    """Returns the real file behind a symbolic link, so that a rename keeps the link."""
    return Path(os.path.realpath(path))


# --------------------------------------------------------------- names, owners and litter
# All that stands beside a target while it is written: `.bitnet-KEY.lock`, and temporary names
# `.bitnet-KEY.TOKEN.tmp`, `….old`; KEY is made of the target's name. Whoever holds the lock of
# a KEY owns every temporary name with it. No longer than a name may be, whatever the target's.
_LEFT = re.compile(r"\.bitnet-([0-9a-f]{12})\.(?:lock|[0-9a-f]{12}\.(?:tmp|old))")


def _key(target: Path) -> str:
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]


def _lock_file(folder: Path, key: str) -> Path:
    return folder / f".bitnet-{key}.lock"


def _temporary(target: Path) -> Path:
    """A new name beside `target`, hidden, that nothing has; not made yet.

    It is known before anything is made under it, so that there is no moment at which an
    interruption leaves something that nobody removes (as between mkstemp's work and its
    return).
    """
    return target.with_name(f".bitnet-{_key(target)}.{secrets.token_hex(6)}.tmp")


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Keeps every other writer of `path` out for the block; removes what dead ones left.

    For what is not written in one piece, as a run's folder; `atomic_file` and
    `atomic_directory` do it by themselves.

    Raises:
      Resumable: another process is writing it (code ``io.busy``).
    """
    target, entered = resolve_target(Path(path)), False
    try:
        with lock(_lock_file(target.parent, _key(target)), remove=True):
            entered = True
            _remove_litter(target)
            yield
        return
    except Resumable as error:
        if entered:
            raise
        raise Resumable(
            "io.busy", f"another process is writing `{path}`", "wait for it, then run again"
        ) from error
    except NoLocks:
        if entered:
            raise
    except OSError as error:
        if entered:
            raise
        raise os_failure(error, "write", path) from error
    # A dead writer cannot be told from a live one: nothing is removed.
    _LOG.warning("`%s` has no locks: two writers are not kept apart", target.parent)
    yield


def _remove_litter(target: Path) -> None:
    """Removes what killed writers left beside `target`, whose lock is held here.

    Theirs who write something else in this folder are left alone while they live: their
    lock cannot be taken.
    """
    ours = _key(target)
    others: dict[str, list[Path]] = {}
    with os.scandir(target.parent) as found:
        for entry in found:
            match = _LEFT.fullmatch(entry.name)
            if match is None:
                continue
            if match[1] != ours:
                others.setdefault(match[1], []).append(Path(entry.path))
            elif entry.name.endswith(".old") and not os.path.lexists(target):
                os.rename(entry.path, target)  # killed between the two renames: see _swap_in
            elif not entry.name.endswith(".lock"):
                _remove(Path(entry.path))
    for key, left in others.items():
        with contextlib.suppress(Resumable, OSError):
            if [path.name for path in left] == [f".bitnet-{key}.lock"]:
                remove_if_free(left[0])
                continue
            with lock(_lock_file(target.parent, key), remove=True):
                for path in left:
                    # What was moved aside may be all there is: only its own next writer knows.
                    if path.suffix == ".tmp":
                        _remove(path)


def _remove(path: Path) -> None:
    """Removes a file or folder; what belongs to somebody else stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


# ----------------------------------------------------------------------------- writing


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: str = "wb", force: bool = True) -> Iterator:
    """Opens a temporary file that becomes `path` when the block ends without an error.

    Its `name` is a path, so that the block can open and check what it wrote. Keeps the
    mode of the file it replaces (else 0666 less the umask) and writes through symbolic
    links. On any error, Ctrl-C too, the old file stands and the temporary one is gone;
    after a kill the next writer removes it.

    Raises:
      CannotCreate: `path` is no regular file; or it exists, and `force` is false.
      Resumable: another process is writing it.
      IOFailure, PermissionDenied, NoInput: from the operating system.
    """
    check_name(path)
    target = resolve_target(Path(path))
    temporary = _temporary(target)
    try:
        with owned(Path(path)):
            before = _replaced(target, Path(path), force)
            if before is not None and stat.S_ISDIR(before):
                raise CannotCreate(
                    "io.not_file", f"output `{path}` is a folder", "choose another output"
                )
            wanted = 0o666 & ~_umask() if before is None else stat.S_IMODE(before)
            try:
                # "x": it must be new; 0600 until it is whole.
                with _opened(temporary, mode) as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                os.chmod(temporary, wanted)
                _replaced(target, Path(path), force)
                os.replace(temporary, target)
            except BaseException:
                _discard(temporary)
                raise
            _sync_folder(target.parent)
    except OSError as error:
        raise os_failure(error, "write", path) from error


def _replaced(target: Path, path: Path, force: bool) -> int | None:
    """The mode of what will be replaced, None if nothing will; raises where it may not be."""
    check_kind(target)
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if not force:
        raise exists(path)
    return found.st_mode


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _opened(path: Path, mode: str) -> IO[Any]:
    if mode == "wb":
        return new_file(path, _private)
    return open(path, mode.replace("w", "x"), opener=_private)


@contextlib.contextmanager
def atomic_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields a temporary directory that becomes `path` when the block ends without an error.

    With `force`, an existing directory keeps its mode and its place until the new one
    takes it, in one step where the system can exchange two names.

    Raises:
      As `atomic_file`.
    """
    check_name(path)
    target = resolve_target(Path(path))
    temporary = _temporary(target)
    try:
        with owned(Path(path)):
            before = _replaced(target, Path(path), force)
            if before is not None and not stat.S_ISDIR(before):
                raise CannotCreate(
                    "io.not_directory", f"output `{path}` is a file", "choose another output"
                )
            try:
                os.mkdir(temporary, 0o700)
                yield temporary
                _sync_tree(temporary)
                wanted = 0o777 & ~_umask() if before is None else stat.S_IMODE(before)
                os.chmod(temporary, wanted)
                _replaced(target, Path(path), force)
                _swap_in(temporary, target)
            except BaseException:
                _discard(temporary)
                raise
            _sync_folder(target.parent)
    except OSError as error:
        raise os_failure(error, "write", path) from error


def sync_file(path: Path) -> None:
    """Has the system write what it still holds of a file; before a rename that must last."""
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def scratch_directory(folder: Path) -> Iterator[Path]:
    """Yields a new directory in `folder`, for the block; a killed process's is swept up later."""
    target = folder / f"scratch-{secrets.token_hex(6)}"
    temporary = _temporary(target)
    try:
        with owned(target):
            try:
                os.mkdir(temporary, 0o700)
                yield temporary
            finally:
                _discard(temporary)
    except OSError as error:
        raise os_failure(error, "write into", folder) from error


def _swap_in(temporary: Path, target: Path) -> None:
    """Gives the directory its name; what had it is removed."""
    if not os.path.lexists(target):
        os.replace(temporary, target)
        return
    if _exchange(temporary, target):
        shutil.rmtree(temporary, ignore_errors=True)
        return
    aside = temporary.with_suffix(".old")
    # Between the two renames there is no `target`: no signal may end it there. What can (a
    # kill) leaves it aside, and the next writer puts it back.
    with undisturbed():
        os.replace(target, aside)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


_EXCHANGE = 2  # RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD


def _exchange(one: Path, other: Path) -> bool:
    """Lets two names change places at once; False where the system cannot."""
    import ctypes  # here: help must not wait for it

    call = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if call is None:
        return False
    return call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _sync_tree(folder: Path) -> None:
    """Lets what lies in a folder reach the disk before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Lets a rename in `folder` reach the disk, where folders can be opened."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:  # some network file systems: they do not do it, nor need it asked
        _LOG.debug("`%s` cannot be synchronised", folder)
    finally:
        os.close(fd)


def _discard(temporary: Path) -> None:
    """Removes a temporary file or folder, if it was made."""
    with undisturbed():
        _remove(temporary)


def make_folder(path: Path) -> None:
    """Makes `path` and what is missing above it; one that is there is left as it is."""
    check_name(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # and it is no folder
        raise CannotCreate(
            "io.not_directory", f"output `{path}` is a file", "choose another output"
        ) from error
    except OSError as error:
        raise os_failure(error, "create", path) from error
