"""What may be written where, and the errors of the operating system in our words.

Only looks; `paths.py` writes, and hands these names on. Knows nothing of what the files hold.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from bitnet_jax.core.errors import (
    BitnetError,
    CannotCreate,
    IOFailure,
    NoInput,
    PermissionDenied,
    UsageError,
    shown,
)


def os_failure(error: OSError, action: str, path: os.PathLike | str) -> BitnetError:
    """Returns the typed error for an `OSError` met while doing `action` on `path`."""
    where = f"cannot {action} `{path}`: {error.strerror or error}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NoInput("io.not_found", where, "check the path")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return PermissionDenied("io.permission", where, "check the owner and mode of the path")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return IOFailure(
            "io.disk_full",
            where,
            "free some space, or write elsewhere; nothing half-written is left",
        )
    return IOFailure("io.failed", where)


def check_name(path: os.PathLike | str) -> None:
    """Raises unless the system can have a file of this name.

    No command line can hold such a one; a settings file, a manifest and Python can.

    Raises:
      UsageError: code ``io.name``.
    """
    try:
        if b"\0" not in os.fsencode(path):
            return
        fault = "a NUL"
    except UnicodeEncodeError:
        fault = "half a surrogate pair"
    raise UsageError(
        "io.name", f"the path {shown(os.fspath(path))} holds {fault}", "use another name"
    )


def check_output(path: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raises unless `path` may be written.

    Raises:
      CannotCreate: it exists and `force` is false, or it is one of `inputs`.
      CannotCreate: it is a device, a FIFO or a socket: those cannot be replaced.
      CannotCreate: what should be its parent directory is a file.
      NoInput: the parent directory does not exist.
      PermissionDenied: the parent directory, or what stands at `path`, is not writable.
      UsageError: no file can have such a name.
    """
    check_name(path)
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise CannotCreate(
                "io.output_is_input",
                f"output `{path}` is the input itself",
                "choose another output",
            )
    check_kind(path)
    if _mode(path) is not None and not force:
        raise exists(path)
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
        raise PermissionDenied(
            "io.permission",
            f"cannot write into `{parent}`",
            "check its owner and mode, or write elsewhere",
        )


def check_kind(path: Path) -> None:
    """Raises unless what stands at `path`, if anything, is a file or folder that may be replaced.

    A device is not: a rename would put a file in its place, for every program.
    """
    mode = _mode(path)
    if mode is None:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        word = next((word for kind, word in _KINDS if stat.S_IFMT(mode) == kind), "special file")
        raise CannotCreate(
            "io.not_file",
            f"output `{path}` is no regular file but a {word}",
            "choose another output; data for a pipe can be printed: --json",
        )
    if not os.access(path, os.W_OK):
        raise PermissionDenied(
            "io.permission",
            f"output `{path}` is read-only",
            f"choose another output, or: chmod u+w {path}",
        )


_KINDS = (
    (stat.S_IFIFO, "FIFO"),
    (stat.S_IFCHR, "device"),
    (stat.S_IFBLK, "device"),
    (stat.S_IFSOCK, "socket"),
)


def exists(path: Path) -> CannotCreate:
    return CannotCreate(
        "io.exists", f"output `{path}` exists", "choose another output, or pass --force"
    )


def _mode(path: Path) -> int | None:
    """The mode of what stands at `path`; None if nothing does.

    What is there and cannot be looked at (a loop of links) raises.
    """
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None  # a dangling link too: writing goes through it
    except NotADirectoryError:
        return None  # said of the parent, in better words
    except OSError as error:
        raise os_failure(error, "write", path) from error
