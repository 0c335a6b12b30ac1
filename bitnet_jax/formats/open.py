"""Opening a model of any format: what a file is, is read from the file.

One table: a new format is a row and a file. Knows no format itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bitnet_jax.containers import sniff
from bitnet_jax.containers.native import is_native
from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.core.errors import BadData, NoInput, nearest
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface import CONFIG, open_huggingface
from bitnet_jax.formats.huggingface_files import INDEX
from bitnet_jax.formats.native import open_bitnet

# kind of file by content (containers/sniff.py) -> its reader
READERS: dict[str, Callable[[Path, bool], Checkpoint]] = {
    "safetensors": lambda path, verify: _open_safetensors(path, verify),
}


def open_checkpoint(path: os.PathLike | str, *, verify: bool = True) -> Checkpoint:
    """Opens a model; reads headers and configs, no tensor.

    Args:
      path: a directory of `transformers`, one of its files, a `.bitnet` file, or an
        id (`org/name`) found in the local Hugging Face cache.
      verify: compare the checksums of formats that have them.

    Raises:
      NoInput: there is nothing at `path`.
      BadData: it is no model that can be read, or is damaged; the code says which.
    """
    path = resolve(path)
    if path.is_dir():
        return _open_directory(path, verify)
    kind = sniff.sniff(path)
    if kind.id == "json" and path.name in (CONFIG, INDEX):
        return open_huggingface(path.parent)
    reader = READERS.get(kind.id)
    if reader is None:
        raise BadData(
            "file.empty" if kind.id == "empty" else "file.wrong_kind",
            f"`{path}` is {kind.words}; a model was expected",
            kind.hint or None,
        )
    return reader(path, verify)


def _open_safetensors(path: Path, verify: bool) -> Checkpoint:
    if is_native(open_safetensors(path)):
        return open_bitnet(path, verify)
    return open_huggingface(path)


def _open_directory(path: Path, verify: bool) -> Checkpoint:
    if (path / CONFIG).exists() or (path / INDEX).exists():
        return open_huggingface(path)
    models = sorted(path.glob("*.bitnet"))
    if len(models) == 1:
        return open_bitnet(models[0], verify)
    if models:
        raise BadData(
            "file.which_model",
            f"`{path}` holds {len(models)} models: " + ", ".join(m.name for m in models[:5]),
            "pass one of them",
        )
    return open_huggingface(path)  # says what is missing


def resolve(path: os.PathLike | str) -> Path:
    """Returns the path of a model named by path or by an id in the local Hugging Face cache.

    Raises:
      NoInput: there is neither (code ``model.not_found``).
    """
    found = Path(path)
    if os.path.lexists(found):
        return found
    name = str(path)
    parts = name.split("/")
    if len(parts) == 2 and all(part and not part.startswith(".") for part in parts):
        cached = _cached(*parts)
        if cached is not None:
            return cached
        hint = "no such path, and no such model in the local Hugging Face cache"
        raise NoInput("model.not_found", f"`{name}` was not found", hint)
    raise NoInput("model.not_found", f"`{name}` does not exist", _neighbours(found))


def _cached(organisation: str, repository: str) -> Path | None:
    """The snapshot of ``main`` in the hub's cache; nothing is fetched."""
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    folder = cache / f"models--{organisation}--{repository}"
    reference = folder / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = folder / "snapshots" / reference.read_text().strip()
    return snapshot if snapshot.is_dir() else None


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"`{path.parent}` does not exist either"
    close = nearest(path.name, (item.name for item in path.parent.iterdir()))
    if not close:
        return "check the path"
    return "did you mean " + " or ".join(f"`{path.parent / name}`" for name in close) + "?"
