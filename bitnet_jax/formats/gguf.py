"""GGUF files to `Checkpoint` (docs/formats/gguf.md says what is read and refused).

The container knows keys and blocks; here they get a family's names and checks. `gguf_write` is
the way back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf import GgufFile, open_gguf_file
from bitnet_jax.containers.gguf_blocks import FLOATS
from bitnet_jax.core.errors import BadData, few, nearest
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.gguf_encoding import TERNARY
from bitnet_jax.formats.gguf_fused import places, split
from bitnet_jax.formats.gguf_i2s import LayoutCheck
from bitnet_jax.formats.gguf_metadata import (
    ARCHITECTURE,
    DIGEST,
    SPEC,
    read_metadata,
    read_spec,
    row_of,
)
from bitnet_jax.formats.gguf_table import Kept, read_table, scale_name
from bitnet_jax.formats.gguf_tokenizer_read import read_tokenizer
from bitnet_jax.formats.gguf_weights_read import looks_ternary, read_float, read_ternary
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.gguf import Found
from bitnet_jax.models.names import Expected, gguf_names, unfused
from bitnet_jax.models.rope_gguf import FREQUENCIES
from bitnet_jax.quant.tensor import QuantTensor

# Of a tensor that is none of the model's parameters.
_LARGEST_FURTHER = 1 << 20


def open_gguf(path: Path, verify: bool = True) -> Checkpoint:
    """Opens a GGUF file: header, keys and names; reads no tensor.

    Args:
      verify: compare what files of this package state with what they hold, and look at the
        layout of I2_S tensors of others, when they are read.

    Raises:
      BadData: it is damaged, is of an architecture or type not known, or its parts do not fit
        together; the code says which.
    """
    file = open_gguf_file(path)
    where = f"`{path}`"
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else 0
    tied = "output.weight" not in file.tensors
    spec = read_spec(_found(file, where), rows, tied)
    wanted = unfused(spec)
    tensors = gguf_names(spec)
    whole, file, names = file, split(file, tensors, wanted), places(tensors)
    _check_names(file, wanted, names, spec)
    ours = SPEC in file.metadata
    table = read_table(file.metadata, wanted, where)
    check = LayoutCheck(file, names, spec.num_layers)
    stated = {
        key: file.metadata[DIGEST + key]
        for key in ("trits", "trits_scales")
        if isinstance(file.metadata.get(DIGEST + key), str)
    }
    look = check if verify and not stated else lambda: None
    entries = {
        name: _entry(file, item, names[name], table.get(name), ours, spec, look)
        for name, item in wanted.items()
    }
    tokenizer, warnings = read_tokenizer(file.metadata, spec, ours, where)
    kinds = Counter(file.info(names[name]).type.name for name in entries if entries[name].ternary)
    if "I2_S" in kinds and not stated:
        warnings.append(
            f"{where}: I2_S names several layouts, and nothing in the file says which; it "
            "is read as bitnet.cpp's converter writes, unless the weights themselves show another"
        )
    if ours is False and file.metadata.get(ARCHITECTURE) == "bitnet" and _silent(file.metadata):
        warnings.append(
            f"{where}: no key bitnet.hidden_activation: taken as SiLU, as llama.cpp does; a 2B4T "
            "model in such a file is another one (microsoft/BitNet#588)"
        )
    detail = {
        "digests": stated,
        "architecture": file.metadata.get(ARCHITECTURE),
        "version": file.version,
        "types": dict(Counter(info.type.name for info in whole.tensors.values())),
    }
    source = Source(path, "gguf", _encoding(file, names, entries), detail)
    found = Checkpoint(spec, entries, tokenizer, source, tuple(warnings))
    return replace(found, metadata=read_metadata(found, file.metadata))


def _found(file: GgufFile, where: str) -> Found:
    """The file, as a family's row may look at it."""

    def read(name: str) -> np.ndarray:
        info = file.info(name)
        if info.type.name not in FLOATS or info.nbytes > _LARGEST_FURTHER:
            raise TensorError(
                "model.tensor_dtype",
                f"{where}: tensor `{name}` is {info.type.name} {list(info.shape)}; a short vector "
                "of floats was expected",
                "convert again from the original",
                tensor=name,
            )
        return file.read_bytes(name).view(FLOATS[info.type.name]).astype(np.float32)

    architecture = file.metadata.get(ARCHITECTURE)
    if not isinstance(architecture, str):
        raise BadData(
            "model.unknown_architecture",
            f"{where}: no key {ARCHITECTURE} says what it is",
            "is it a model's file, and whole?",
        )
    return Found(architecture, file.metadata, frozenset(file.tensors), read, where)


def _silent(metadata: Mapping[str, Any]) -> bool:
    return "bitnet.hidden_activation" not in metadata


def _ones(file: GgufFile, name: str) -> bool:
    """A tensor of factors that are all 1 says nothing."""
    return name in file.tensors and bool((_found(file, "").read(name) == 1).all())


def _check_names(
    file: GgufFile, wanted: Mapping[str, Expected], names: Mapping[str, str], spec: ModelSpec
) -> None:
    """The tensors must be those the spec asks for, no more and no less, each of its shape."""
    row = row_of(spec)
    scales = {
        scale_name(names[name])
        for name, item in wanted.items()
        if item.ternary and row.scales(name, spec)
    }
    known = {*names.values(), *scales, *row.tensors(spec)}
    known |= {name for name in (FREQUENCIES,) if _ones(file, name)}
    extra = [name for name in file.tensors if name not in known]
    for name, theirs in names.items():
        if theirs not in file.tensors:
            close = nearest(theirs, extra)
            raise TensorError(
                "model.missing_sub_norm" if "sub_norm" in name else "model.missing_tensor",
                f"`{file.path}` lacks tensor `{theirs}`, which its architecture has"
                + (f"; found instead: {few(close)}" if close else ""),
                "the converter that made it dropped it: convert again from the original",
                tensor=name,
            )
        info = file.info(theirs)
        if info.shape != wanted[name].file_shape:
            raise TensorError(
                "model.tensor_shape",
                f"`{file.path}`: tensor `{theirs}` is {list(info.shape)}; its keys ask for "
                f"{list(wanted[name].file_shape)}",
                "are keys and weights of one model?",
                tensor=name,
            )
        if info.type.name in TERNARY.values() and not wanted[name].ternary:
            raise TensorError(
                "model.tensor_dtype",
                f"`{file.path}`: tensor `{theirs}` is {info.type.name}, and no ternary matrix",
                "a converter quantized the embedding or the head: convert again from the original",
                tensor=name,
            )
    if extra:
        close = nearest(extra[0], known)
        raise TensorError(
            "model.unknown_tensor",
            f"`{file.path}` holds {len(extra)} tensors that its architecture has not: {few(extra)}",
            f"the nearest known: {few(close)}" if close else "is it of another architecture?",
            tensor=extra[0],
        )


def _entry(
    file: GgufFile,
    item: Expected,
    theirs: str,
    kept: Kept | None,
    ours: bool,
    spec: ModelSpec,
    look: Any,
) -> TensorEntry:
    stored = file.info(theirs).type.name
    # bitnet's matrices of llama.cpp have their scale in a tensor beside them.
    scale = file.tensors.get(scale_name(theirs)) if item.ternary else None
    nbytes = file.info(theirs).nbytes + (0 if scale is None else scale.nbytes)
    row = row_of(spec)
    heads, offset = row.heads(item.name, spec), row.offset(item.name)
    if item.ternary and stored in FLOATS:
        # A file of ours says it; of another, it shows.
        ternary = bool(kept and kept.scale_kind) if ours else looks_ternary(file, theirs)
    else:
        ternary = item.ternary and stored in TERNARY.values()
    dtype = kept.dtype if kept is not None else str(FLOATS.get(stored, np.dtype("<f4")))
    if not ternary:
        as_stored = stored in FLOATS and dtype == str(FLOATS[stored])
        plain = as_stored and heads is None and not item.transposed and len(item.shape) > 1
        return TensorEntry(
            item.name,
            item.shape,
            dtype,
            False,
            lambda: read_float(file, item, theirs, kept, heads, offset),
            parts=(lambda rows: file.parts(theirs, rows, FLOATS[stored])) if plain else None,
            stored_as=stored,
            nbytes=nbytes,
        )

    def read() -> QuantTensor:
        if stored == "I2_S":
            look()
        return read_ternary(file, item, theirs, kept, heads)

    return TensorEntry(item.name, item.shape, dtype, True, read, stored_as=stored, nbytes=nbytes)


def _encoding(file: GgufFile, names: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> str:
    """The encoding of most matrices, with that of the embedding where it is not its own float."""
    some = [name for name, entry in entries.items() if entry.ternary] or [
        name for name, entry in entries.items() if len(entry.shape) > 1
    ]
    kinds = Counter(file.info(names[name]).type.name for name in some)
    base = kinds.most_common(1)[0][0].lower() if kinds else "f32"
    embedding = file.info(names["embed_tokens"]).type.name if "embed_tokens" in names else "F32"
    lossy = embedding not in FLOATS and embedding.lower() != base
    return f"{base}+{embedding.lower()}" if lossy else base
