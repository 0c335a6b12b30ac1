"""Writing to a repository of the hub: first what would change, then all of it in one commit.

A commit of the hub is whole or absent, and ours names the one it was planned against: cut anywhere,
or overtaken by somebody else's, the repository is as it was. Large files go up before it and are
seen by nobody until then. Knows no model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import (
    BitnetError,
    IOFailure,
    NoInput,
    PermissionDenied,
    Resumable,
    Unavailable,
    UsageError,
)
from bitnet_jax.stores import hub_errors
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.hub import EXTRA, HTTP, PACKAGE, HubRepo, endpoint, parse
from bitnet_jax.stores.store import Reach, RemoteFile, require
from bitnet_jax.stores.transfer import CHECKS, Cut

ADDED, CHANGED, REMOVED, SAME = "added", "changed", "removed", "same"


@dataclass(frozen=True)
class FileChange:
    """What becomes of one file there.

    Attributes:
      what: `ADDED`, `CHANGED`, `REMOVED` or `SAME`.
      before, after: bytes; None where there is no such file.
    """

    name: str
    what: str
    before: int | None
    after: int | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {"file": self.name, "what": self.what, "before": self.before, "after": self.after}


class Publication:
    """Files to be published in a repository.

    Attributes:
      changes: what would become of each file; those that nobody asked about stay, untold.
      commit: the commit they are compared with; None where there is no repository yet.
    """

    def __init__(
        self,
        address: Address,
        files: Mapping[str, Path],
        obsolete: Callable[[str], bool],
        reach: Reach,
    ):
        """Looks up what is there; writes nothing.

        Args:
          files: name there -> what is to lie there.
          obsolete: of a file there that is none of `files`: must it go?

        Raises:
          Unavailable: offline, no package (``store.extra_missing``), or no hub.
          PermissionDenied: the hub does not let us see it.
        """
        self._repo, path = parse(address)
        if path:
            raise UsageError(
                "hub.address",
                f"`{address}` is a file in a repository; a model is published as all of one",
                f"write hf://{self._repo}",
            )
        if reach.offline:
            raise Unavailable(
                "hub.offline", f"nothing is published to `{address}` offline", "leave out --offline"
            )
        require(PACKAGE, EXTRA, address)
        require(HTTP, EXTRA, address)
        self.address, self._files, self._reach = address, dict(files), reach
        there = self._look_up()
        self.commit: str | None = None if there is None else str(there.origin["commit"])
        held = {} if there is None else dict(there.listing())
        self.changes = [self._change(name, held.get(name)) for name in sorted(self._files)]
        self.changes += [
            FileChange(name, REMOVED, held[name].size, None)
            for name in sorted(held.keys() - self._files.keys())
            if obsolete(name)
        ]

    @property
    def nothing_to_do(self) -> bool:
        """Says whether the repository holds all of it already."""
        return self.commit is not None and all(row.what == SAME for row in self.changes)

    def _look_up(self) -> HubRepo | None:
        try:
            return HubRepo(self.address, self._repo, "", self._reach)
        except NoInput as error:
            if error.code == "hub.repo_not_found":
                return None
            raise

    def _change(self, name: str, held: RemoteFile | None) -> FileChange:
        path = self._files[name]
        size = path.stat().st_size
        if held is None:
            return FileChange(name, ADDED, None, size)
        assert held.check is not None
        kind, value = held.check
        same = held.size == size and CHECKS[kind](path) == value
        return FileChange(name, SAME if same else CHANGED, held.size, size)

    def put(self, message: str, *, private: bool = False) -> str:
        """Makes the repository where there is none, and the commit; returns the commit's name.

        Raises:
          PermissionDenied: the token may not write there, or there is none.
          IOFailure: an upload was cut (``store.upload_cut``); the repository is as it was.
          Resumable: somebody else committed meanwhile (``hub.moved``).
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        operations: list[Any] = []
        total = 0
        for row in self.changes:
            if row.what in (ADDED, CHANGED):
                operations.append(CommitOperationAdd(row.name, str(self._files[row.name])))
                total += row.after or 0
            elif row.what == REMOVED:
                operations.append(CommitOperationDelete(row.name))
        api = HfApi(endpoint=endpoint())
        with self._told(), self._reach.task(f"publishing {self._repo}", total) as update:
            if self.commit is None:
                api.create_repo(self._repo.id, private=private, exist_ok=True)
            info = api.create_commit(
                self._repo.id,
                operations,
                commit_message=message,
                revision=self._repo.revision,
                parent_commit=self.commit,
            )
            update(total)
        return str(info.oid)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """The client's errors in our words, and its bars of progress left out."""
        from huggingface_hub import errors
        from huggingface_hub.utils import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        quiet = are_progress_bars_disabled()
        disable_progress_bars()
        try:
            with hub_errors.told(self.address, self._repo, endpoint(), cuts=True):
                try:
                    yield
                except errors.RepositoryNotFoundError as error:
                    raise PermissionDenied(
                        "hub.denied",
                        f"the hub lets nobody without a right to it write to `{self._repo}`",
                        "give a token that may write there in HF_TOKEN",
                    ) from error
                except errors.HfHubHTTPError as error:
                    if error.response.status_code in (409, 412):
                        raise self._moved() from error
                    raise
                except (RuntimeError, OSError) as error:
                    # The client's threads wrap what went wrong, and its cause says what; the one
                    # that cuts files into chunks raises what the system would.
                    raise self._cut(error.__cause__ or error) from error
        except Cut as cut:
            raise self._cut(cut) from cut
        finally:
            if not quiet:
                enable_progress_bars()

    def _moved(self) -> BitnetError:
        return Resumable(
            "hub.moved",
            f"`{self._repo}` was changed by somebody else meanwhile; nothing of ours was committed",
            "run the same command again: what differs is looked up anew",
        )

    def _cut(self, cause: BaseException) -> BitnetError:
        return IOFailure(
            "store.upload_cut",
            f"`{self.address}`: the upload ended early: {cause}; the repository is as it was",
            "run the same command again",
        )
