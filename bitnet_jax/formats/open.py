"""Opening a model of any format: what a file is, is read from the file.

Two tables, of files and of folders: a new format is a row and a file. Knows no format itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitnet_jax.containers import sniff
from bitnet_jax.containers.native import is_native
from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.gguf import open_gguf
from bitnet_jax.formats.huggingface import open_huggingface
from bitnet_jax.formats.locate import Place, locate
from bitnet_jax.formats.model_files import CONFIG, GRAPHS, INDEX, WHOLE, model_file
from bitnet_jax.formats.native import open_bitnet
from bitnet_jax.formats.onnx import open_onnx_model
from bitnet_jax.formats.orbax import is_orbax, open_orbax
from bitnet_jax.formats.stablehlo import is_stablehlo, refuse_as_source
from bitnet_jax.formats.stablehlo import open_written as open_stablehlo

Reader = Callable[[Path, bool], Checkpoint]

# kind of file by content (containers/sniff.py) -> its reader
READERS: dict[str, Reader] = {
    "safetensors": lambda path, verify: _open_safetensors(path, verify),
    "gguf": open_gguf,
    "onnx": open_onnx_model,
}

# What tells a folder that is no checkpoint of `transformers`, and its reader; and the reader where
# it is opened to be checked, not to be converted.
FOLDERS: tuple[tuple[Callable[[Path], bool], Reader, Reader], ...] = (
    (is_orbax, open_orbax, open_orbax),
    (is_stablehlo, refuse_as_source, open_stablehlo),
)


def open_checkpoint(
    path: os.PathLike | str | Place,
    *,
    verify: bool = True,
    offline: bool | None = None,
    progress: Any = None,
    check: bool = False,
) -> Checkpoint:
    """Opens a model; reads headers and configs, no tensor.

    Args:
      path: a directory of `transformers`, one of its files, a `.bitnet` file, an
        id (`org/name`) found in the local Hugging Face cache, or an address, which is
        fetched: ``hf://org/name@revision``, ``gs://…``, ``s3://…``.
      verify: compare the checksums of formats that have them.
      offline, progress: as `locate` takes them.
      check: it is opened to be checked: what is no source of a model is opened too.

    Raises:
      NoInput: there is nothing at `path`.
      BadData: it is no model that can be read, or is damaged; the code says which.
      Unavailable, PermissionDenied, IOFailure: it could not be fetched.
    """
    place = locate(path, offline=offline, progress=progress)
    checkpoint = _open(place.path, verify, check)
    if not place.origin:
        return checkpoint
    return replace(checkpoint, source=replace(checkpoint.source, origin=place.origin))


def _open(path: Path, verify: bool, check: bool = False) -> Checkpoint:
    if path.is_dir():
        return _open_directory(path, verify, check)
    kind = sniff.sniff(path)
    if kind.id == "json" and path.name in (CONFIG, INDEX):
        return open_huggingface(path.parent)
    reader = READERS.get(kind.id)
    if reader is None and is_stablehlo(path.parent):
        refuse_as_source(path)
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


def _open_directory(path: Path, verify: bool, check: bool) -> Checkpoint:
    for holds, reader, checked in FOLDERS:
        if holds(path):
            return (checked if check else reader)(path, verify)
    file = path / model_file([item.name for item in path.iterdir()], path)
    whole = file.suffix in (*WHOLE, *GRAPHS)
    return _open(file, verify) if whole else open_huggingface(path)
