"""Models in object stores (`gs://`, `s3://`), staged into a local cache.

Formats want whole files that they can check and map, and a digest reads every byte, so a
model is staged, not read in ranges. Stands on fsspec, as etils.epath does: epath's paths
know neither what identifies an object nor its checksum. Knows no model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import IOFailure, NoInput, Unavailable
from bitnet_jax.core.paths import lock, os_failure
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.objects_errors import SERVICES, told
from bitnet_jax.stores.store import Reach, RemoteFile, check_name, require
from bitnet_jax.stores.transfer import (
    ATTEMPTS_OF_CLIENTS,
    Cut,
    check_space,
    download,
    link,
    part_of,
    size_of,
)

BLOCK = 8 << 20
# What tells one content of an object from the next, as the services call it.
_IDENTITY = ("generation", "ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")
# A staged object that has been replaced in its store is kept as long as somebody may read it.
KEPT_SECONDS = 7 * 86400


def filesystem(address: Address) -> Any:
    """The service's client.

    Raises:
      Unavailable: its package is not installed.
    """
    import fsspec

    service = SERVICES[address.scheme]
    require(service.package, service.extra, address)
    # A listing kept from before would hide what others have written since.
    return fsspec.filesystem(address.scheme, use_listings_cache=False)


def refuse_offline(address: Address, reach: Reach) -> None:
    """Raises when nothing may leave the machine."""
    if reach.offline:
        raise Unavailable(
            "store.offline",
            f"`{address}` lies in an object store, which is not reached offline",
            "run it without --offline (and without HF_HUB_OFFLINE), or give a local path",
        )


def open_objects(address: Address, reach: Reach) -> Objects:
    """Looks an object or a folder of objects up."""
    refuse_offline(address, reach)
    return Objects(address, filesystem(address), reach)


class Objects:
    """An object, or those below a prefix; see `store.Remote`."""

    def __init__(self, address: Address, fs: Any, reach: Reach):
        self._fs, self._reach = fs, reach
        with told(address):
            info = fs.info(address.rest)
        is_file = info["type"] == "file" and "/" in address.rest
        self.target = address.name if is_file else ""
        self._folder = address.parent if is_file else address
        self.origin: dict[str, Any] = {"url": str(address)}
        if is_file:
            self.origin["object"] = _stated(info)

    def listing(self) -> Mapping[str, RemoteFile]:
        """The objects of the folder."""
        with told(self._folder):
            found = self._fs.ls(self._folder.rest, detail=True)
        names = (item["name"].rstrip("/").rpartition("/")[2] for item in found)
        return {
            name: self._file(name, info)
            for name, info in zip(names, found, strict=True)
            if name and info["type"] == "file"
        }

    def lookup(self, names: Iterable[str]) -> Mapping[str, RemoteFile]:
        """Those of `names` that are there."""
        found = {}
        for name in names:
            try:
                found[name] = self._look(name)
            except NoInput:
                continue
        return found

    def above(self) -> tuple[Objects, str] | None:
        """See `store.Remote`."""
        if "/" not in self._folder.rest:
            return None
        found = copy(self)
        found.target, found._folder = "", self._folder.parent
        return found, self._folder.name

    def _look(self, name: str) -> RemoteFile:
        address = self._folder.child(name)
        with told(address):
            return self._file(name, self._fs.info(address.rest))

    @staticmethod
    def _file(name: str, info: Mapping[str, Any]) -> RemoteFile:
        size = int(info["size"] or 0)
        identity = hashlib.sha256(repr((size, _stated(info))).encode()).hexdigest()
        # S3's ETag is an MD5 of some objects and not of others, without saying of which.
        stated = info.get("md5Hash")
        return RemoteFile(name, size, identity, ("md5", stated) if stated else None)

    def fetch(self, names: Iterable[str]) -> Path:
        """Stages what the cache lacks; a cut transfer goes on at the next call."""
        wanted = self.lookup(names)
        for name in wanted:
            check_name(name, self._folder)
        key = hashlib.sha256(str(self._folder).encode()).hexdigest()[:24]
        base = cache_dir("stores", self._folder.scheme, key)
        blobs, views = cache_dir("stores", self._folder.scheme, key, "blobs"), base / "views"
        chosen = repr(sorted((file.name, file.identity) for file in wanted.values()))
        view = views / hashlib.sha256(chosen.encode()).hexdigest()[:24]
        with lock(cache_dir("locks") / key):
            missing = [file for file in wanted.values() if not (view / file.name).exists()]
            todo = sum(
                file.size - size_of(part_of(blobs / file.identity))
                for file in missing
                if not (blobs / file.identity).exists()
            )
            check_space(blobs, todo)
            with self._reach.task(f"fetching {self.origin['url']}", todo) as update:
                for file in missing:
                    blob = blobs / file.identity
                    where = str(self._folder.child(file.name))
                    read = partial(self._read, file, part_of(blob))
                    download(blob, file, read, update, where, ATTEMPTS_OF_CLIENTS)
                    link(blob, view / file.name)
            _prune(blobs, {file.identity for file in wanted.values()})
        return view

    def _read(self, file: RemoteFile, part: Path, offset: int) -> Iterator[bytes]:
        address = self._folder.child(file.name)
        while offset < file.size:
            end = min(offset + BLOCK, file.size)
            with told(address, cuts=True):
                block = self._fs.cat_file(address.rest, start=offset, end=end)
            if not block:
                raise Cut("the store gave no bytes")
            offset += len(block)
            yield block
        # A range says nothing of the rest of the object: was it one object all the time?
        if self._look(file.name).identity != file.identity:
            part.unlink(missing_ok=True)
            raise IOFailure(
                "store.changed",
                f"`{address}` was replaced while it was read",
                "run the same command again",
            )


def _stated(info: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(info[name]).strip('"') for name in _IDENTITY if info.get(name)}


def _prune(blobs: Path, wanted: set[str]) -> None:
    """Removes staged objects that their store has replaced, a week after they were staged."""
    oldest = time.time() - KEPT_SECONDS
    try:
        for blob in blobs.iterdir():
            if blob.name.partition(".")[0] not in wanted and blob.stat().st_mtime < oldest:
                blob.unlink(missing_ok=True)
    except OSError as error:
        raise os_failure(error, "tidy up", blobs) from error
