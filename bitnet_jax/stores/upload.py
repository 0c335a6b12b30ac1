"""Writing to an object store so that what looks whole is whole.

An object appears, or is replaced, when all its bytes are there, or not at all: the services see
to that. Of several, the caller says in which order they come, and what goes before them. Knows no
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import BitnetError, CannotCreate, IOFailure, NoInput, Unavailable
from bitnet_jax.stores import transfer
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.objects import filesystem, refuse_offline
from bitnet_jax.stores.objects_errors import told
from bitnet_jax.stores.store import Reach
from bitnet_jax.stores.table import store_of
from bitnet_jax.stores.transfer import ATTEMPTS_OF_CLIENTS, Cut


class Upload:
    """Objects to be written into one folder of a store.

    Attributes:
      folder: the address of the folder.
    """

    def __init__(self, folder: Address, reach: Reach):
        """Raises `Unavailable` where the store cannot be written to or reached."""
        if not store_of(folder).writable:
            raise Unavailable(
                "store.read_only",
                f"nothing is written to `{folder}` as it is made",
                "write to a local path, and `bitnet model publish PATH hf://org/name` it",
            )
        refuse_offline(folder, reach)
        self.folder, self._reach = folder, reach
        self._fs = filesystem(folder)

    def names(self) -> set[str]:
        """The objects that are in the folder."""
        try:
            with told(self.folder):
                found = self._fs.ls(self.folder.rest, detail=True)
        except NoInput:
            return set()
        return {item["name"].rpartition("/")[2] for item in found if item["type"] == "file"}

    def check(self, clashing: Callable[[str], bool], *, force: bool) -> None:
        """Raises `CannotCreate` where an object stands that would be replaced or mixed in."""
        there = sorted(name for name in self.names() if clashing(name))
        if there and not force:
            raise CannotCreate(
                "io.exists",
                f"output `{self.folder.child(there[0])}` exists"
                + (f" (and {len(there) - 1} more of a model)" if there[1:] else ""),
                "choose another output, or pass --force",
            )

    def put(self, files: Mapping[str, Path], *, first_remove: Iterable[str] = ()) -> None:
        """Uploads `files` in their order, once those of `first_remove` that are there are gone.

        Raises:
          IOFailure: cut too often, or other bytes arrived; what follows is not there then.
        """
        total = sum(path.stat().st_size for path in files.values())
        there = self.names()
        done: list[str] = []
        try:
            with self._reach.task(f"uploading to {self.folder}", total) as update:
                for name in first_remove:
                    if name in there:
                        self._remove(name)
                for name, path in files.items():
                    done.append(name)
                    self._put(name, path, update)
        except BaseException:  # Ctrl-C too
            # What is left would be no model; still, nobody wants it.
            self._tidy([name for name in done if name not in there])
            raise

    def _put(self, name: str, path: Path, update: Callable[[int], object]) -> None:
        address = self.folder.child(name)
        for attempt in range(1, ATTEMPTS_OF_CLIENTS + 1):
            try:
                with told(address, cuts=True):
                    self._fs.put_file(str(path), address.rest, callback=_Told(update))
                break
            except Cut as cut:
                if attempt == ATTEMPTS_OF_CLIENTS:
                    raise IOFailure(
                        "store.upload_cut",
                        f"`{address}`: the upload ended early {ATTEMPTS_OF_CLIENTS} times: {cut}",
                        "run the same command again",
                    ) from cut
        self._verify(address, path)

    def _verify(self, address: Address, path: Path) -> None:
        with told(address):
            info = self._fs.info(address.rest)
        stated = info.get("md5Hash")
        size = path.stat().st_size
        if info["size"] != size or (stated and stated != transfer.md5_base64(path)):
            self._remove(address.name)
            raise IOFailure(
                "store.upload_differs",
                f"`{address}` holds other bytes than were sent ({info['size']} of {size}); it was "
                "removed",
                "run the same command again",
            )

    def _remove(self, name: str) -> None:
        address = self.folder.child(name)
        with told(address):
            self._fs.rm_file(address.rest)

    def _tidy(self, names: list[str]) -> None:
        for name in names:
            try:
                self._remove(name)
            except BitnetError:
                continue  # not there, or the store is gone: the error that is raised says so


class _Told:
    """fsspec's callback, as far as the clients call it: how many bytes have gone."""

    def __init__(self, update: Callable[[int], object]):
        self._update, self._value = update, 0

    def set_size(self, size: int) -> None:
        """The size is known."""

    def relative_update(self, inc: int = 1) -> None:
        self._value += inc
        self._update(inc)

    def absolute_update(self, value: int) -> None:
        self.relative_update(value - self._value)

    def branched(self, path_1: Any, path_2: Any, **kwargs: Any) -> _Told:
        return self
