"""`hf://org/repo[@revision][/file]`: files of the Hugging Face hub, fetched into its own cache.

The hub's client looks repositories up, signs requests and follows redirects. The bytes are
written here: the client starts a cut download from nothing in the next process and compares
no checksum. Knows no model: which files are wanted is asked of it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import BadData, NoInput, Unavailable, UsageError
from bitnet_jax.core.paths import lock
from bitnet_jax.stores import hub_cache, hub_errors
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.hub_cache import Repo
from bitnet_jax.stores.store import Reach, RemoteFile, check_name, require
from bitnet_jax.stores.transfer import Cut, check_space, download, link, part_of, patiently, size_of

PACKAGE, HTTP, EXTRA = "huggingface_hub", "httpx2", "hub"
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Kinds of repository that the hub writes before the organisation.
_OTHER_KINDS = ("datasets", "spaces", "buckets", "kernels")


def open_hub(address: Address, reach: Reach) -> CachedRepo | HubRepo:
    """Looks a repository up: on the hub, or with `reach.offline` in the cache.

    Raises:
      UsageError: the address is none of a model's repository.
      Unavailable: offline and not in the cache, no package, or no hub.
      NoInput, PermissionDenied: the hub has no such thing, or does not give it.
    """
    repo, path = parse(address)
    if reach.offline:
        return CachedRepo(address, repo, path)
    require(PACKAGE, EXTRA, address)
    require(HTTP, EXTRA, address)  # an older client stands on another one
    return HubRepo(address, repo, path, reach)


def parse(address: Address) -> tuple[Repo, str]:
    """Returns the repository and the path in it, "" for all of it."""
    parts = address.rest.split("/")
    repo = None
    if len(parts) >= 2 and parts[0] not in _OTHER_KINDS:
        name, at, revision = parts[1].partition("@")
        rest = parts[2:]
        # A revision is one part, with %2F for its slashes; refs/pr/N may be written plainly.
        if revision == "refs" and len(rest) >= 2:
            revision, rest = "/".join([revision, *rest[:2]]), rest[2:]
        repo = hub_cache.parse_repo(f"{parts[0]}/{name}{at}{unquote(revision)}")
    if repo is None:
        raise UsageError(
            "hub.address",
            f"`{address}` names no model repository",
            "write hf://org/name, hf://org/name@revision (a branch, tag or commit), or a file: "
            "hf://org/name/model.bitnet",
        )
    return repo, "/".join(rest)


class CachedRepo:
    """What the cache holds of a revision; see `store.Remote`."""

    def __init__(self, address: Address, repo: Repo, path: str):
        found = hub_cache.snapshot(repo)
        if found is None:
            known = hub_cache.revisions(repo)
            raise Unavailable(
                "hub.offline",
                f"`{address}` is not in the local cache, and nothing is fetched offline",
                (f"the cache has its revisions {', '.join(known[:5])}; or " if known else "")
                + "run it without --offline (and without HF_HUB_OFFLINE)",
            )
        folder, commit = found
        folder = folder.joinpath(*path.split("/")) if path else folder
        self.target = "" if folder.is_dir() else folder.name
        self._folder = folder.parent if self.target else folder
        self._root = found[0]
        self.origin = {**repo.origin(commit), **({"file": path} if path else {})}
        self._address = address

    def listing(self) -> Mapping[str, RemoteFile]:
        """The files that are here."""
        if not self._folder.is_dir():
            return {}
        return {
            file.name: RemoteFile(file.name, file.stat().st_size, "")
            for file in self._folder.iterdir()
            if file.is_file()
        }

    def lookup(self, names: Iterable[str]) -> Mapping[str, RemoteFile]:
        """Those of `names` that are here."""
        files = {name: self._folder / name for name in names}
        return {
            name: RemoteFile(name, file.stat().st_size, "")
            for name, file in files.items()
            if file.is_file()
        }

    def above(self) -> tuple[CachedRepo, str] | None:
        """See `store.Remote`."""
        if self._folder == self._root:
            return None
        found = copy(self)
        found.target, found._folder = "", self._folder.parent
        return found, self._folder.name

    def fetch(self, names: Iterable[str]) -> Path:
        """Returns the folder, if all is there."""
        wanted = set(names)
        missing = sorted(wanted - set(self.lookup(wanted)))
        if missing:
            raise Unavailable(
                "hub.offline",
                f"`{self._address}`: the local cache lacks {', '.join(missing[:5])}, and nothing "
                "is fetched offline",
                "run it without --offline (and without HF_HUB_OFFLINE)",
            )
        return self._folder


class HubRepo:
    """A revision on the hub; see `store.Remote`.

    The revision becomes a commit once, at the start: files of two commits never mix.
    """

    def __init__(self, address: Address, repo: Repo, path: str, reach: Reach):
        self._address, self._repo, self._reach = address, repo, reach
        self._endpoint = endpoint()
        info = self._look_up()
        self._commit = str(info.sha)
        siblings = {item.rfilename: item for item in info.siblings or ()}
        in_folder = any(name.startswith(f"{path}/") for name in siblings)
        if path and path not in siblings and not in_folder:
            raise NoInput(
                "hub.file_not_found",
                f"`{repo}` has neither a file nor a folder `{path}`",
                "it holds " + (", ".join(sorted(siblings)[:8]) or "nothing"),
            )
        folder, _, name = path.rpartition("/") if path in siblings else (path, "", "")
        self.target = name
        self._prefix = f"{folder}/" if folder else ""
        self.origin = {**repo.origin(self._commit), **({"file": path} if path else {})}
        self._siblings = siblings

    def _look_up(self) -> Any:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint)

        def ask() -> Any:
            with hub_errors.told(self._address, self._repo, self._endpoint):
                return api.model_info(
                    self._repo.id,
                    revision=self._repo.revision,
                    files_metadata=True,
                    timeout=hub_errors.timeout(),
                )

        try:
            info = patiently(ask)
        except Cut as cut:
            raise Unavailable(
                "hub.unreachable",
                f"`{self._endpoint}` does not serve `{self._repo}` now: {cut}",
                hub_errors.cached_hint(self._repo)
                or "try again in a while; a token in HF_TOKEN has higher limits",
            ) from cut
        if not hub_cache.COMMIT.fullmatch(str(info.sha)):
            raise self._odd(f"commit {str(info.sha)[:60]!r}")
        return info

    def _odd(self, what: str) -> BadData:
        return BadData(
            "hub.answer",
            f"`{self._endpoint}` answered for `{self._repo}` with {what}",
            "is HF_ENDPOINT a hub?",
        )

    def listing(self) -> Mapping[str, RemoteFile]:
        """The files of the folder."""
        start = len(self._prefix)
        below = (name[start:] for name in self._siblings if name.startswith(self._prefix))
        return self.lookup(name for name in below if "/" not in name)

    def lookup(self, names: Iterable[str]) -> Mapping[str, RemoteFile]:
        """Those of `names` that are there."""
        return {name: self._file(name) for name in names if self._prefix + name in self._siblings}

    def above(self) -> tuple[HubRepo, str] | None:
        """See `store.Remote`."""
        if not self._prefix:
            return None
        found = copy(self)
        folder, _, name = self._prefix.removesuffix("/").rpartition("/")
        found.target, found._prefix = "", f"{folder}/" if folder else ""
        return found, name

    def _file(self, name: str) -> RemoteFile:
        item = self._siblings[self._prefix + name]
        large = item.lfs is not None
        stated = item.lfs.sha256 if large else item.blob_id
        if not isinstance(item.size, int) or item.size < 0 or not _HASH.fullmatch(str(stated)):
            raise self._odd(f"size {item.size!r} and hash {str(stated)[:80]!r} of {name[:80]!r}")
        return RemoteFile(name, item.size, stated, ("sha256" if large else "git-sha1", stated))

    def fetch(self, names: Iterable[str]) -> Path:
        """Fetches what the cache lacks, into it; a cut transfer goes on at the next call."""
        wanted = self.lookup(names)
        repo = self._repo
        blobs, files = hub_cache.make_folders(repo, self._commit)
        key = hashlib.sha256(str(repo.folder).encode()).hexdigest()[:24]
        with lock(cache_dir("locks") / key):
            missing = [file for file in wanted.values() if not self._is_here(files, file)]
            todo = sum(
                file.size - size_of(part_of(blobs / file.identity))
                for file in missing
                if not (blobs / file.identity).exists()
            )
            check_space(blobs, todo)
            with self._reach.task(f"fetching {repo}", todo) as update:
                for file in missing:
                    where = f"hf://{repo}/{self._prefix}{file.name}"
                    blob = blobs / file.identity
                    download(blob, file, partial(self._read, file), update, where)
                    link(blob, self._pointer(files, file.name))
            hub_cache.write_ref(repo, self._commit)
        return files.joinpath(*self._prefix.split("/")) if self._prefix else files

    def _pointer(self, files: Path, name: str) -> Path:
        return files.joinpath(*check_name(self._prefix + name, self._address).split("/"))

    def _is_here(self, files: Path, file: RemoteFile) -> bool:
        pointer = self._pointer(files, file.name)
        return pointer.is_file() and pointer.stat().st_size == file.size

    def _read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(
            self._repo.id,
            self._prefix + file.name,
            revision=self._commit,
            endpoint=self._endpoint,
        )
        # Compressed, the ranges would count other bytes.
        headers = {**build_hf_headers(), "accept-encoding": "identity"}
        if offset:
            headers["range"] = f"bytes={offset}-"
        with (
            hub_errors.told(self._address, self._repo, self._endpoint, cuts=True),
            get_session().stream(
                "GET", url, headers=headers, timeout=hub_errors.timeout()
            ) as response,
        ):
            hub_errors.check_status(response)
            skip = 0
            if offset and response.status_code == 200:
                skip = offset  # the server does not know ranges
            elif offset and not _starts_at(response.headers.get("content-range", ""), offset):
                raise Cut("the server sent another part than was asked for")
            # As it comes: gathered into blocks, a cut would lose what has been gathered.
            for block in response.iter_raw():
                dropped = min(skip, len(block))
                skip -= dropped
                if dropped < len(block):
                    yield block[dropped:]


def endpoint() -> str:
    """Where the hub is."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _starts_at(content_range: str, offset: int) -> bool:
    return content_range.startswith(f"bytes {offset}-")
