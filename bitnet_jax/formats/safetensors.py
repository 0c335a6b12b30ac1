"""One safetensors file, with the config and the tokenizer's files beside it.

The tensors and their encodings are those of the `huggingface` format, written by its writer; what
differs is where they stand: in one file of any name and any size, in a folder that may hold other
things. So its companions never replace what belongs to another model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bitnet_jax.core.errors import CannotCreate, UsageError, few, nearest
from bitnet_jax.core.paths import check_output, sync_file
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface_config import check_spelling
from bitnet_jax.formats.huggingface_encoding import ENCODINGS, UNQUANTIZED, choose_encoding
from bitnet_jax.formats.huggingface_write import (
    Spelling,
    Written,
    companions,
    write_huggingface,
)
from bitnet_jax.formats.model_files import CONFIG, INDEX, PICKLES

_UNLIMITED = 1 << 62


def check_safetensors(checkpoint: Checkpoint, encoding: str | None) -> None:
    """Raises what `write_safetensors` would raise before it reads a tensor."""
    if encoding is not None and encoding not in ENCODINGS:
        close = nearest(encoding, ENCODINGS)
        raise UsageError(
            "format.encoding",
            f"encoding `{encoding}` is not one of the safetensors format",
            (f"did you mean `{close[0]}`? " if close else "") + f"known: {', '.join(ENCODINGS)}",
        )
    chosen, _ = choose_encoding(checkpoint, encoding)
    check_spelling(checkpoint.spec, chosen not in UNQUANTIZED)


def check_beside(checkpoint: Checkpoint, path: Path, force: bool) -> None:
    """Raises where a companion of `path` would replace what is not its own.

    Raises:
      CannotCreate: it exists and `force` is false, or other weights stand in the folder, to which
        it belongs (``safetensors.shared_folder``).
    """
    _check(path, sorted({CONFIG, *companions(checkpoint)}), force)


def write_safetensors(
    checkpoint: Checkpoint, folder: Path, name: str, encoding: str | None, jobs: int = 1
) -> Written:
    """Writes the file `name` and its companions into the empty `folder`.

    Raises:
      CannotCreate: as `write_huggingface`.
    """
    spelling = Spelling(card=False)  # a README beside one file would be about the folder
    return write_huggingface(
        checkpoint, folder, encoding, max_shard_bytes=_UNLIMITED, spelling=spelling, jobs=jobs,
        single=name,
    )  # fmt: skip


def place_beside(folder: Path, names: Iterable[str], path: Path, force: bool) -> None:
    """Moves the companions of `path` from `folder`, which is on the same disk, to its side.

    Raises:
      CannotCreate: as `check_beside`.
    """
    names = list(names)
    _check(path, names, force)
    for name in names:
        sync_file(folder / name)
        os.replace(folder / name, path.parent / name)


def _check(path: Path, names: Iterable[str], force: bool) -> None:
    taken = [name for name in names if os.path.lexists(path.parent / name)]
    if not taken:
        return
    others = sorted(
        item.name
        for item in path.parent.iterdir()
        if item.name != path.name
        and (item.name == INDEX or item.name.endswith((".safetensors", *PICKLES)))
    )
    if others:
        raise CannotCreate(
            "safetensors.shared_folder",
            f"`{path.parent}` holds {few(taken)}, and other weights that they may belong to: "
            f"{few(others)}; beside `{path}` they would be replaced",
            "write it into a folder of its own",
        )
    for name in taken:
        check_output(path.parent / name, force=force)
