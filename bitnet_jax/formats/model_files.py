"""Which file of a folder is its model: one rule, for a folder here and for one in a store.

With a `config.json` or an index it is a checkpoint of `transformers`; else, or where that has no
weights, one file that is a model by itself.
`model_file` looks at names only, and opens nothing; `stamp` says which bytes a file holds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import Blob
from bitnet_jax.core.errors import BadData, NoInput, few

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Suffixes of files that are a model by themselves; and of graphs, which others may have beside
# their weights: those only where nothing else is one.
WHOLE, GRAPHS = (".bitnet", ".gguf"), (".onnx",)
# Where others keep graphs of a model whose config and tokenizer stand in the folder above.
GRAPH_FOLDER = "onnx"
PICKLES = (".bin", ".pth", ".pt", ".pkl")
_HINT = "a model is a .bitnet, GGUF or ONNX file, or a folder with safetensors and config.json"


def model_file(names: Collection[str], folder: str | os.PathLike) -> str:
    """Returns the file that holds the weights, or the index of those that do.

    Args:
      names: those of the folder's files.
      folder: what a message calls it.

    Raises:
      BadData: it holds several models, pickles only, or nothing that is one.
      NoInput: it is a checkpoint, and its weights are missing.
    """
    tensors, native, graphs, pickles = (
        sorted(name for name in names if name.endswith(suffix))
        for suffix in (".safetensors", WHOLE, GRAPHS, PICKLES)
    )
    native = native or graphs
    checkpoint = CONFIG in names or INDEX in names
    if checkpoint or not native:
        known = next((name for name in (SINGLE, INDEX) if name in names), None)
        if known is not None:
            return known
    found = (tensors or native) if checkpoint else (native or tensors)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadData(
            "file.which_model" if found is native else "huggingface.which_file",
            f"`{folder}` holds {len(found)} models: {few(found)}"
            if found is native
            else f"`{folder}` holds {len(found)} safetensors files and no {INDEX}: {few(found)}",
            f"pass one of them: {folder}/{found[0]}",
        )
    if pickles:
        raise BadData(
            "huggingface.pickle",
            f"`{folder}` holds only pickles ({few(pickles)}), which are never unpickled here, "
            "since that could run any code",
            "look for one with safetensors; where you trust it, load it with its own library and "
            "call `model.save_pretrained(DIR, safe_serialization=True)`",
        )
    if checkpoint:
        raise NoInput(
            "huggingface.no_weights",
            f"`{folder}` holds no safetensors file: " + few(sorted(names)),
            "is the download, or the upload, complete?",
        )
    raise BadData(
        "huggingface.no_config",
        f"`{folder}` has no {CONFIG}, and holds no model: "
        + (few(sorted(names)) if names else "it is empty"),
        _HINT,
    )


def files_of(path: Path, detail: Mapping[str, Any]) -> dict[str, Path]:
    """Every file that a checkpoint was read from, by its name: its path from the model's folder.

    Args:
      path, detail: of its `Source`; ``detail["files"]`` holds names beside the path, or below
        it, where the model is more than the file at `path`.
    """
    folder = path if path.is_dir() else path.parent
    names = {*detail.get("files", ()), *(() if path.is_dir() else (path.name,))}
    return {name: Path(os.path.normpath(folder / name)) for name in sorted(names)}


def relative_names(folder: Path, files: Iterable[Path]) -> list[str]:
    """The names of files as `files_of` takes them; some may lie above the folder."""
    root = os.path.abspath(folder)
    return sorted({Path(os.path.relpath(os.path.abspath(file), root)).as_posix() for file in files})


# As many folders above the model's as a file of it may lie: a run has its tokenizer two above
# a step.
_MOST_ABOVE = 2


def is_file_name(name: object) -> bool:
    """True for a name that `files_of` gives: of a file in the model's folder, or just above it."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    parts = name.split("/")
    above = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    return above <= _MOST_ABOVE and above < len(parts) and not {"", ".", ".."} & {*parts[above:]}


_AT_ONCE = 4 << 20


def stamp(path: Path, name: str | None = None) -> dict[str, Any]:
    """A file's name, how many bytes it has, and their SHA-256, as hubs list them.

    Args:
      name: what it is called; as it is if None.

    Raises:
      NoInput, BadData, PermissionDenied, IOFailure: it cannot be read, or is no regular file.
    """
    blob, digest = Blob(path), hashlib.sha256()
    held = np.empty(min(_AT_ONCE, blob.size), np.uint8)
    for at in range(0, blob.size, _AT_ONCE):
        part = held[: min(_AT_ONCE, blob.size - at)]
        blob.read_into(at, part)
        digest.update(part)
    return {"name": name or path.name, "bytes": blob.size, "sha256": digest.hexdigest()}
