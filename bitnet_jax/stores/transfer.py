"""Bringing one file here so that a cut costs nothing and a wrong byte is noticed.

What has arrived stays in a `.part` file under the name of what it is a part of; the next
attempt, also one of another process, goes on where it ends. The file gets its name only when
its size and its checksum are right. Knows no store: how bytes are read is handed in.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from bitnet_jax.core.errors import IOFailure
from bitnet_jax.core.paths import os_failure
from bitnet_jax.stores.store import RemoteFile

# Attempts in a row that bring nothing before it is given up; one that brings a byte starts anew.
ATTEMPTS = 5
# Of what a client has already tried again by itself, for minutes.
ATTEMPTS_OF_CLIENTS = 2
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
_BLOCK = 1 << 20
T = TypeVar("T")


class Cut(Exception):
    """A transfer that ended early, or a server that is busy: worth another attempt.

    `wait`: seconds that the server asks to wait, or None.
    """

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def wait(cut: Cut, failures: int) -> None:
    """Waits before another attempt: as long as the server asks, else longer each time."""
    seconds = FIRST_WAIT * 2 ** (failures - 1) if cut.wait is None else cut.wait
    time.sleep(min(seconds, LONGEST_WAIT))


def patiently(action: Callable[[], T]) -> T:
    """Returns what `action` gives, trying again after a `Cut`; the last one is raised."""
    for failures in range(1, ATTEMPTS):
        try:
            return action()
        except Cut as cut:
            wait(cut, failures)
    return action()


# Reads from an offset to the end; raises `Cut`.
Read = Callable[[int], Iterable[bytes]]


def download(
    target: Path,
    file: RemoteFile,
    read: Read,
    update: Callable[[int], object],
    where: str,
    attempts: int = ATTEMPTS,
) -> None:
    """Makes `target` from what `read` gives; does nothing when it stands there already.

    Args:
      update: called with the number of bytes that have arrived.
      where: the file's address, for errors.
      attempts: how many in a row may bring nothing.

    Raises:
      IOFailure: cut too often (``store.cut``), wrong bytes (``store.checksum``), disk full.
    """
    if target.exists():
        return
    part = part_of(target)
    failures = 0
    while (done := size_of(part)) < file.size or not part.exists():
        try:
            _append(part, read(done), file, update, where)
            if size_of(part) < file.size:
                raise Cut("the connection was closed")
        except Cut as cut:
            failures = 1 if size_of(part) > done else failures + 1
            if failures >= attempts:
                raise IOFailure(
                    "store.cut",
                    f"`{where}`: the transfer ended after {size_of(part)} of {file.size} bytes: "
                    f"{cut}",
                    "run the same command again: it goes on from there",
                ) from cut
            wait(cut, failures)
    _check(part, file, where)
    try:
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
    except OSError as error:
        raise os_failure(error, "write", target) from error


def part_of(target: Path) -> Path:
    """Where what has arrived of `target` is kept."""
    return target.with_name(target.name + ".part")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise os_failure(error, "look at", path) from error


def link(blob: Path, pointer: Path) -> None:
    """Gives a fetched file a name: a relative link, or the file where links cannot be made."""
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            os.symlink(os.path.relpath(blob, pointer.parent), pointer)
        except (OSError, NotImplementedError):  # Windows without the right to make links
            os.replace(blob, pointer)
    except OSError as error:
        raise os_failure(error, "write", pointer) from error


def check_space(folder: Path, needed: int) -> None:
    """Refuses early what would not fit; the write itself has the last word."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise IOFailure(
            "io.disk_full",
            f"`{folder}` needs {needed} more bytes, {free} are free",
            "free some space there, or choose another place: HF_HUB_CACHE, BITNET_CACHE_DIR",
        )


def _append(
    part: Path,
    blocks: Iterable[bytes],
    file: RemoteFile,
    update: Callable[[int], object],
    where: str,
) -> None:
    # The network's errors come from `blocks`, the disk's from here: both may be an OSError.
    try:
        # Unbuffered: closing a buffered file tries the write that failed once more, and raises.
        stream = open(part, "ab", buffering=0)
    except OSError as error:
        raise os_failure(error, "write", part) from error
    with stream:
        for block in blocks:
            if stream.tell() + len(block) > file.size:
                _discard(part)
                raise IOFailure(
                    "store.checksum",
                    f"`{where}`: more than its {file.size} bytes arrived; they were thrown away",
                    "run the same command again; a proxy on the way may be altering what it sends",
                )
            try:
                rest = memoryview(block)
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError as error:
                failure = os_failure(error, "write", part)
                failure.hint = "what has arrived is kept; free some space, then run it again"
                raise failure from error
            update(len(block))


def _check(part: Path, file: RemoteFile, where: str) -> None:
    if file.check is None:
        return
    kind, stated = file.check
    try:
        found = CHECKS[kind](part)
    except OSError as error:
        raise os_failure(error, "read", part) from error
    if found != stated:
        _discard(part)
        raise IOFailure(
            "store.checksum",
            f"`{where}`: {kind} of what arrived is {found}, the store states {stated}; it was "
            "thrown away",
            "run the same command again; a proxy on the way may be altering what it sends",
        )


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)


def _hashed(path: Path, digest: Any) -> Any:
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest


def sha256(path: Path) -> str:
    """What the hub states of large files."""
    return _hashed(path, hashlib.sha256()).hexdigest()


def git_sha1(path: Path) -> str:
    """What the hub states of small files: git's name for their content."""
    head = f"blob {path.stat().st_size}\0".encode()
    return _hashed(path, hashlib.sha1(head, usedforsecurity=False)).hexdigest()


def md5_base64(path: Path) -> str:
    """What object stores state."""
    digest = _hashed(path, hashlib.md5(usedforsecurity=False)).digest()
    return base64.b64encode(digest).decode()


CHECKS: dict[str, Callable[[Path], str]] = {
    "sha256": sha256,
    "git-sha1": git_sha1,
    "md5": md5_base64,
}
