"""Writing files so that nobody ever sees half of one; locks; cache folders.

Makes the POSIX-only calls that files need (`fcntl`, umask); `system` makes the others.
Knows nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from bitnet_jax.core.errors import (
    BitnetError,
    CannotCreate,
    IOFailure,
    NoInput,
    PermissionDenied,
    Resumable,
)

try:
    import fcntl
except ImportError:  # Windows: locks are then taken with O_EXCL, see `lock`.
    fcntl = None  # type: ignore[assignment]


def os_failure(error: OSError, action: str, path: os.PathLike | str) -> BitnetError:
    """Returns the typed error for an `OSError` met while doing `action` on `path`."""
    where = f"cannot {action} `{path}`: {error.strerror or error}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NoInput("io.not_found", where, "check the path")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return PermissionDenied("io.permission", where, "check the owner and mode of the path")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return IOFailure(
            "io.disk_full", where, "free some space, or write elsewhere; nothing was left behind"
        )
    return IOFailure("io.failed", where)


def _umask() -> int:
    # There is no call that only reads the umask.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def resolve_target(path: Path) -> Path:
    """Returns the real file behind a symbolic link, so that a rename keeps the link."""
    return Path(os.path.realpath(path))


def check_output(path: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raises unless `path` may be written.

    Raises:
      CannotCreate: it exists and `force` is false, or it is one of `inputs`.
      CannotCreate: what should be its parent directory is a file.
      NoInput: the parent directory does not exist.
      PermissionDenied: the parent directory is not writable.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise CannotCreate(
                "io.output_is_input",
                f"output `{path}` is the input itself",
                "choose another output",
            )
    if _stands(path) and not force:
        raise CannotCreate(
            "io.exists", f"output `{path}` exists", "choose another output, or pass --force"
        )
    parent = path.absolute().parent
    if not parent.exists():
        raise NoInput("io.no_parent", f"`{parent}` does not exist", f"mkdir -p {parent}")
    if not parent.is_dir():
        raise CannotCreate(
            "io.parent_not_directory",
            f"output `{path}` would lie in `{parent}`, which is no directory",
            "choose another output",
        )
    if not os.access(parent, os.W_OK):
        raise PermissionDenied("io.permission", f"cannot write into `{parent}`")


def _stands(path: Path) -> bool:
    """As `Path.exists`, but what is there and cannot be looked at (a loop of links) raises."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False  # a dangling link too: writing goes through it
    except NotADirectoryError:
        return False  # said of the parent, in better words
    except OSError as error:
        raise os_failure(error, "write", path) from error
    return True


# The longest name that a temporary one can be made of: the system allows 255 bytes.
_STEM = 50


def _temporary(target: Path) -> Path:
    """A new name beside `target`, hidden, that nothing has; not made yet.

    It is known before anything is made under it, so that there is no moment at which an
    interruption leaves something that nobody removes (as between mkstemp's work and its
    return).
    """
    return target.with_name(f".{target.name[:_STEM]}.{secrets.token_hex(6)}.tmp")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
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


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: str = "wb") -> Iterator:
    """Opens a temporary file that becomes `path` when the block ends without an error.

    Its `name` is a path, so that the block can open and check what it wrote. Keeps the
    mode of the file it replaces (else 0666 less the umask) and writes through symbolic
    links. On any error, Ctrl-C too, the old file stands and the temporary one is gone.

    Raises:
      IOFailure, PermissionDenied, NoInput: from the operating system.
    """
    target = resolve_target(Path(path))
    temporary = _temporary(target)
    try:
        wanted = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        # "x": it must be new; 0600 until it is whole.
        with open(temporary, mode.replace("w", "x"), opener=_private) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, wanted)
        os.replace(temporary, target)
    except OSError as error:
        _discard(temporary)
        raise os_failure(error, "write", path) from error
    except BaseException:
        _discard(temporary)
        raise


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


@contextlib.contextmanager
def atomic_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields a temporary directory that becomes `path` when the block ends without an error.

    With `force`, an existing directory is moved aside first and removed only after
    the new one stands; it is put back if the rename fails.
    """
    target = resolve_target(Path(path))
    temporary = _temporary(target)
    try:
        os.mkdir(temporary, 0o700)
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        _swap_in(temporary, target, force)
    except OSError as error:
        _discard(temporary)
        raise os_failure(error, "write", path) from error
    except BaseException:
        _discard(temporary)
        raise


def _swap_in(temporary: Path, target: Path, force: bool) -> None:
    if not target.exists():
        os.replace(temporary, target)
        return
    if not force:
        raise CannotCreate(
            "io.exists", f"output `{target}` exists", "choose another output, or pass --force"
        )
    aside = temporary.with_suffix(".old")
    # Between the two renames there is no `target`: no signal may end it there.
    with _undisturbed():
        os.replace(target, aside)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _discard(temporary: Path) -> None:
    """Removes a temporary file or folder, if it was made."""
    with _undisturbed():
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` (created if missing) for the block.

    Raises:
      Resumable: another process holds it (code ``io.busy``).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Resumable(
                    "io.busy", f"another process holds `{path}`", "wait for it, then run again"
                ) from error
        yield
    finally:
        os.close(fd)


def cache_dir(*parts: str) -> Path:
    """Returns (and creates, mode 0700) this user's cache folder for `parts`.

    ``BITNET_CACHE_DIR`` overrides the platform's place.
    """
    import platformdirs

    base = os.environ.get("BITNET_CACHE_DIR") or platformdirs.user_cache_dir("bitnet-jax")
    path = Path(base).joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise os_failure(error, "create the cache folder", path) from error
    return path
