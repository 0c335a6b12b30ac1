"""The folder that every tool of Hugging Face keeps its downloads in; no package is needed.

``models--ORG--NAME`` holds ``blobs/<hash>``, ``snapshots/<commit>/<file>`` (links to blobs)
and ``refs/<revision>`` (the commit that a branch or tag had when it was fetched). Knows
nothing of the network.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bitnet_jax.core.errors import BadData
from bitnet_jax.core.paths import atomic_file, os_failure

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPO = re.compile(rf"{_NAME}/{_NAME}", re.A)
# A branch or tag; refs/pr/N is the one with slashes that the hub has.
_REVISION = re.compile(r"(?:refs/)?[\w.-]+(?:/[\w.-]+)*", re.A)


@dataclass(frozen=True)
class Repo:
    """A repository at a revision, as it is named; nothing is looked up."""

    id: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.id if self.revision == MAIN else f"{self.id}@{self.revision}"

    def origin(self, commit: str) -> dict[str, str]:
        """What a record says."""
        return {"repo": self.id, "revision": self.revision, "commit": commit}

    @property
    def folder(self) -> Path:
        """Where the cache keeps it."""
        return root() / ("models--" + self.id.replace("/", "--"))


def parse_repo(text: str) -> Repo | None:
    """Returns ``org/name`` or ``org/name@revision``, or None when `text` is no such thing."""
    name, at, revision = text.partition("@")
    if not _REPO.fullmatch(name) or ".." in name or "--" in name:
        return None
    if not at:
        return Repo(name)
    if not _REVISION.fullmatch(revision) or ".." in revision:
        return None
    return Repo(name, revision)


def root() -> Path:
    """The cache's folder: HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not given:
        home = os.environ.get("HF_HOME")
        if not home:
            cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
            home = os.path.join(cache, "huggingface")
        given = os.path.join(home, "hub")
    return Path(os.path.expanduser(os.path.expandvars(given)))


def commit_of(repo: Repo) -> str | None:
    """The commit that the cache knows the revision by; None when it does not know it."""
    if COMMIT.fullmatch(repo.revision):
        return repo.revision
    reference = repo.folder / "refs" / repo.revision
    try:
        commit = reference.read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise os_failure(error, "read", reference) from error
    # What is read becomes a path.
    if not re.fullmatch(r"[\w.-]+", commit) or ".." in commit:
        raise BadData(
            "hub.cache",
            f"`{reference}` should hold a commit and holds {commit[:60]!r}",
            "the cache is damaged: remove that file",
        )
    return commit


def snapshot(repo: Repo) -> tuple[Path, str] | None:
    """The folder of a revision and its commit, where the cache has it."""
    commit = commit_of(repo)
    if commit is None:
        return None
    folder = repo.folder / "snapshots" / commit
    return (folder, commit) if folder.is_dir() else None


def revisions(repo: Repo) -> list[str]:
    """The revisions that the cache knows of a repository."""
    refs = repo.folder / "refs"
    if not refs.is_dir():
        return []
    return sorted(file.relative_to(refs).as_posix() for file in refs.rglob("*") if file.is_file())


def make_folders(repo: Repo, commit: str) -> tuple[Path, Path]:
    """Makes and returns the folders of blobs and of the commit's files."""
    blobs, files = repo.folder / "blobs", repo.folder / "snapshots" / commit
    for folder in (blobs, files):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise os_failure(error, "create", folder) from error
    return blobs, files


def write_ref(repo: Repo, commit: str) -> None:
    """Notes which commit the revision has, once its files are here."""
    if commit_of(repo) == commit:  # a cache may be shared, and read-only
        return
    reference = repo.folder / "refs" / repo.revision
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_failure(error, "create", reference.parent) from error
    with atomic_file(reference) as stream:
        stream.write(commit.encode())
