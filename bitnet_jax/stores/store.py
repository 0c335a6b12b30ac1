"""What every store can do, and what is handed to it. Knows no store and no model."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from bitnet_jax.core.errors import BadData, Unavailable
from bitnet_jax.stores.address import Address

# A file name that a store may make us write: no separators, not hidden, nothing that a shell
# or a terminal would take for something else.
_PLAIN = re.compile(r"[A-Za-z0-9_][\w.+-]*", re.A)


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store.

    Attributes:
      identity: differs when the content does: a hash, or version and time.
      check: how the fetched bytes are proven: a key of `transfer.CHECKS` and the value;
        None where the store states no checksum.
    """

    name: str
    size: int
    identity: str
    check: tuple[str, str] | None = None


@dataclass(frozen=True)
class Reach:
    """How far a fetch may go.

    Attributes:
      offline: nothing leaves the machine.
      progress: told of what is transferred, or None.
    """

    offline: bool = False
    progress: Any = None

    @classmethod
    def of(cls, offline: bool | None, progress: Any = None) -> Reach:
        """As asked; where nothing was asked, ``HF_HUB_OFFLINE`` says it."""
        return cls(_offline_by_environment() if offline is None else offline, progress)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        """Yields what is told how many more bytes are done."""
        if self.progress is None or not total:
            yield lambda count: None
            return
        with self.progress.task(label, total, "bytes") as task:
            yield task.update


class Remote(Protocol):
    """One address, looked up.

    A name is that of a file in the folder, or a path below it (``sub/name``).

    Attributes:
      target: the name of the file that the address is; "" for a folder.
      origin: what a record says of where the files are from.
    """

    target: str
    origin: dict[str, Any]

    def listing(self) -> Mapping[str, RemoteFile]:
        """The files of the folder (of the target's folder), by name; not of folders in it."""

    def lookup(self, names: Iterable[str]) -> Mapping[str, RemoteFile]:
        """Those of `names` that are in the folder."""

    def above(self) -> tuple[Remote, str] | None:
        """The folder that this one lies in, at the same revision, and what this is called there.

        None where there is none, as above a repository.
        """

    def fetch(self, names: Iterable[str]) -> Path:
        """Brings the files to this machine; returns the local folder that holds them.

        Raises:
          NoInput, PermissionDenied, Unavailable, IOFailure: and says how it can go on.
        """


@dataclass(frozen=True)
class Store:
    """One row of the table.

    Attributes:
      package, extra: what must be installed, and the extra that brings it.
      open: looks an address up.
      writable: `upload.py` can write to it.
    """

    package: str
    extra: str
    open: Callable[[Address, Reach], Remote]
    writable: bool = False


def require(package: str, extra: str, address: Address) -> ModuleType:
    """Imports the package that a store needs.

    Raises:
      Unavailable: it is not installed (code ``store.extra_missing``).
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Unavailable(
            "store.extra_missing",
            f"`{address}` needs the package `{package}`: {error}",
            f"pip install 'bitnet-jax[{extra}]'",
        ) from error


def check_name(name: str, address: Address) -> str:
    """Returns a file's name, or path below a folder, that is safe to write here.

    Raises:
      BadData: it is not (code ``store.file_name``).
    """
    if not all(map(_PLAIN.fullmatch, name.split("/"))):
        raise BadData(
            "store.file_name",
            f"`{address}` holds a file named {name[:80]!r}, which is not written to this machine",
            "rename it there, if it is yours",
        )
    return name


def _offline_by_environment() -> bool:
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")
