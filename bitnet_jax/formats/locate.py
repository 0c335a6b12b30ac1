"""From what a person calls a model to files on this machine.

A path that exists wins; then `scheme://…`; then an id of the local Hugging Face cache.
Knows what is read beside the weights (`model_files` says which those are); the stores know how
to get it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_jax.containers import sniff
from bitnet_jax.containers.onnx_file import data_locations
from bitnet_jax.core.errors import BadData, NoInput, few, nearest
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.huggingface_files import weight_map
from bitnet_jax.formats.model_files import CONFIG, GRAPH_FOLDER, INDEX, model_file
from bitnet_jax.stores import hub_cache
from bitnet_jax.stores.address import parse
from bitnet_jax.stores.store import Reach, Remote
from bitnet_jax.stores.table import look_up

# What is read beside the weights. Nothing else is fetched: no code, no pickle.
BESIDE = (CONFIG, *tokenizer_files.NAMES)


@dataclass(frozen=True)
class Place:
    """Where a model is.

    Attributes:
      path: on this machine.
      origin: where it is from, for a record: ``repo``, ``revision`` and ``commit``, or
        ``url``; empty for a path.
    """

    path: Path
    origin: Mapping[str, Any]


def locate(
    name: str | os.PathLike | Place, *, offline: bool | None = None, progress: Any = None
) -> Place:
    """Finds a model, and fetches it where its address asks for that.

    Args:
      offline: fetch nothing; None: as HF_HUB_OFFLINE says.
      progress: told of what is transferred.

    Raises:
      NoInput: there is no such thing; the code says where it was looked for.
      Unavailable: a package or the network is missing, or `offline` forbids it.
      PermissionDenied, IOFailure: the store refuses, or the transfer was cut.
    """
    if isinstance(name, Place):
        return name
    if os.path.lexists(name):
        return Place(Path(name), {})
    address = parse(name)
    if address is None:
        return _by_id(name)
    remote = look_up(address, Reach.of(offline, progress))
    return Place(_fetched(remote, str(address)), remote.origin)


def _fetched(remote: Remote, name: str) -> Path:
    """Fetches what makes up the model; returns the folder, or the file that was named."""
    chosen, names = _wanted(remote, name)
    folder = remote.fetch(_existing(remote, names, name))
    if chosen != INDEX and sniff.sniff(folder / chosen).id == "onnx":
        folder = _graph(remote, names, folder / chosen, name)
    return folder / remote.target


def _wanted(remote: Remote, name: str) -> tuple[str, set[str]]:
    """The file that holds the weights (or their index), and all that is fetched with it."""
    if remote.target:
        beside = remote.lookup([*BESIDE, INDEX])
        names = {remote.target, *beside} - {INDEX}
        if INDEX in beside:
            shards = _shards(remote)
            if remote.target in shards:
                names |= {INDEX, *shards}
        return remote.target, names
    files = remote.listing()
    chosen = model_file(files, name)
    names = {chosen, *({*BESIDE} & {*files})}
    if chosen == INDEX:
        names |= _shards(remote)
    return chosen, names


def _graph(remote: Remote, names: set[str], graph: Path, name: str) -> Path:
    """Fetches the data files that a graph names, and the config where it stands above.

    Raises:
      BadData: one of them is not there (``onnx.external_missing``), or lies nowhere below the
        graph's folder (``onnx.external_path``).
    """
    data = set(data_locations(graph))
    missing = sorted(data - set(remote.lookup(sorted(data))))
    if missing:
        raise BadData(
            "onnx.external_missing",
            f"`{name}` lacks {len(missing)} of the {len(data)} files that its graph "
            f"`{graph.name}` names for its data: {few(missing)}",
            "its upload is not complete: an ONNX model may be several files",
        )
    names = names | data
    above = remote.above() if CONFIG not in names else None
    if above is None or above[1] != GRAPH_FOLDER:
        return remote.fetch(sorted(names)) if data else graph.parent
    parent, called = above
    shared = set(parent.lookup(BESIDE)) - names
    return parent.fetch(sorted(shared | {f"{called}/{each}" for each in names})) / called


def _shards(remote: Remote) -> set[str]:
    return set(weight_map(remote.fetch([INDEX]) / INDEX).values())


def _existing(remote: Remote, names: set[str], name: str) -> list[str]:
    missing = sorted(names - set(remote.lookup(sorted(names))))
    if missing:
        raise NoInput(
            "huggingface.missing_shard",
            f"`{name}` lacks {len(missing)} of the files that its index names: {few(missing)}",
            "its upload is not complete",
        )
    return sorted(names)


def _by_id(name: str | os.PathLike) -> Place:
    """An id of the hub, found in the local cache; nothing is fetched."""
    repo = hub_cache.parse_repo(str(name)) if isinstance(name, str) else None
    if repo is None:
        raise NoInput("model.not_found", f"`{name}` does not exist", _neighbours(Path(name)))
    found = hub_cache.snapshot(repo)
    if found is not None:
        return Place(found[0], repo.origin(found[1]))
    known = hub_cache.revisions(repo)
    raise NoInput(
        "model.not_found",
        f"`{repo}` is no path, and not in the local Hugging Face cache"
        + (f", which has its revisions {', '.join(known[:5])}" if known else ""),
        _close(Path(name)) or f"hf://{repo} fetches it from the hub",
    )


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"`{path.parent}` does not exist either"
    return _close(path) or "check the path"


def _close(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    close = nearest(path.name, (item.name for item in path.parent.iterdir()))
    if not close:
        return None
    return "did you mean " + " or ".join(f"`{path.parent / name}`" for name in close) + "?"
