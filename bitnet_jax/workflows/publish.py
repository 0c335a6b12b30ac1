"""`publish`: a model into a repository of the hub, with its card, after what differs was shown.

A model that cannot be opened, or at which the doctor finds an error, is not published. Asks nobody
itself: it is given a function that does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.core.paths import scratch_directory
from bitnet_jax.formats import model_card, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.doctor import blocking, examine
from bitnet_jax.formats.model_files import INDEX, files_of
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import IN_FOLDER
from bitnet_jax.formats.save import MODEL_FILES
from bitnet_jax.stores.address import parse, require_local
from bitnet_jax.stores.hub_publish import Publication
from bitnet_jax.stores.store import Reach

MESSAGE = "Upload with bitnet-jax"
# What makes up a model there: another one's, of the same kind, would be mixed in with ours.
_WEIGHTS = (".safetensors", ".bitnet", ".gguf", ".onnx", ".onnx.data", ".onnx_data")
# Beside a model's own files: what a card shows. Everything else stays at home, and is told.
_PUBLISHED = (*MODEL_FILES, "*.bitnet", "*.gguf", "*.onnx", "*.onnx.data", "*.md", "*.png", "*.svg")
# Of these the receipt: it is of the files as they were, and the card is written anew here.
_HOME = (IN_FOLDER,)


def publish(
    model: str | os.PathLike,
    repo: str,
    *,
    message: str | None = None,
    private: bool = False,
    confirm: Callable[[dict[str, Any]], bool] | None = None,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The record of `bitnet model publish`.

    Args:
      model: a folder with a model, or one file that is one; on this machine.
      repo: ``hf://org/name``, or ``hf://org/name@branch``.
      message: of the commit.
      private: where the repository is made now, only its owner may see it.
      confirm: given the record of what would change, says whether to go on; None goes on.

    Returns:
      changes: each file and what becomes of it; left_out: files of the folder that are none of a
        model's, and stay here; published: whether it was done; commit: of what was
        published, or of what was there.

    Raises:
      UsageError: `repo` is no address of a repository (``hub.address``).
      BadData: the model is damaged, or the doctor finds an error in it.
      Unavailable: no package (``store.extra_missing``), no hub; PermissionDenied: no right.
      IOFailure, Resumable: cut, or overtaken: the repository is as it was.
    """
    require_local(model, "what is published", "fetch it first")
    address = parse(repo)
    if address is None or address.scheme != "hf":
        raise UsageError(
            "hub.address",
            f"`{repo}` names no repository of the hub",
            "write hf://org/name; to an object store `bitnet model convert --output` writes",
        )
    checkpoint = open_checkpoint(model, offline=True)
    _examine(checkpoint)
    digest = checkpoint.digest().to_json()
    with scratch_directory(cache_dir("stores")) as scratch:
        files, left_out = _files(checkpoint)
        card = files.get(model_card.NAME)
        if card is None or model_card.is_ours(tokenizer_files.read_small(card) or b""):
            files[model_card.NAME] = scratch / model_card.NAME
            text = model_card.model_card(checkpoint, checkpoint.source.encoding, digest)
            files[model_card.NAME].write_bytes(text)
        publication = Publication(address, files, _obsolete, Reach.of(offline, progress))
        record: dict[str, Any] = {
            "model": str(model),
            "repo": str(address),
            "exists": publication.commit is not None,
            "private": private,
            "message": message or MESSAGE,
            "digest": digest,
            "changes": [row.to_json() for row in publication.changes],
            "left_out": left_out,
            "card": "written" if files[model_card.NAME].parent == scratch else "kept",
            "published": False,
            "commit": publication.commit,
        }
        if publication.nothing_to_do or (confirm is not None and not confirm(record)):
            return record
        record["commit"] = publication.put(record["message"], private=private)
        record["published"] = True
    return record


def _examine(checkpoint: Checkpoint) -> None:
    found = blocking(examine(checkpoint), ())
    if found:
        raise BadData(
            found[0].code,
            f"`{checkpoint.source.path}` is not published: {found[0].message}",
            found[0].fix,
        )


def _files(checkpoint: Checkpoint) -> tuple[dict[str, Path], list[str]]:
    """Name -> path of what is published, and the names of what is left out."""
    path = Path(checkpoint.source.path)
    folder = path if path.is_dir() else path.parent
    # What lies above the model's folder is read beside the model too.
    files = {
        re.sub(r"^(\.\./)+", "", name): file
        for name, file in files_of(path, checkpoint.source.detail).items()
    }
    if checkpoint.source.format == "orbax":
        raise UsageError(
            "publish.format",
            f"`{path}` is a training checkpoint, which no reader on the hub opens",
            f"publish what `bitnet model convert {path} -o model.hf` writes",
        )
    if path.is_file() and path.suffix != ".safetensors":
        return files, []
    left_out = []
    for file in sorted(folder.iterdir()):
        known = any(fnmatch(file.name, pattern) for pattern in _PUBLISHED)
        if file.is_file() and known and file.name not in _HOME:
            files[file.name] = file
        elif file.name not in files:
            left_out.append(file.name)
    return files, left_out


def _obsolete(name: str) -> bool:
    """Says whether a file that is there, and not ours, would be mixed in with our model."""
    return name.endswith(_WEIGHTS) or name == INDEX
