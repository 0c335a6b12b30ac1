"""`.bitnet` files to `Checkpoint` and back.

The container knows codes and scales; here they get the model's names and the
family's checks. Nothing is converted on the way: codes are stored as kernels
read them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitnet_jax.containers.dtypes import FLOATS, numpy_dtype
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native import NativeFile, open_native
from bitnet_jax.containers.native_table import Row
from bitnet_jax.containers.native_write import NativeWriter
from bitnet_jax.core.errors import InternalError, UsageError, nearest
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.metadata import check_metadata
from bitnet_jax.formats.survey import each, is_large, pieces
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.ops.native.repack import repack
from bitnet_jax.quant.digest import Digest, DigestBuilder
from bitnet_jax.quant.layouts import LAYOUTS_OF, layout_of
from bitnet_jax.quant.tensor import TERNARY, QuantTensor

# No version: the same input gives the same bytes from every version that writes format 1.
PRODUCER = "bitnet-jax"
# encoding -> the layout of its codes
ENCODINGS: dict[str, str] = dict(zip(("packed", "packed-1.6"), LAYOUTS_OF[TERNARY], strict=True))
_SCALE = np.dtype(np.float32)
_ORIGIN_KEYS = ("linear_class", "quantization_mode")


def open_bitnet(path: Path, verify: bool = True) -> Checkpoint:
    """Opens a `.bitnet` file; every tensor's checksum is compared when it is read.

    Raises:
      BadData: damaged, of a later version, or not what its own spec asks for.
    """
    file = open_native(path, verify)
    spec = ModelSpec.from_json(file.spec)
    wanted = expected(spec)
    _check_names(file, wanted)
    entries = {name: _entry(file, item) for name, item in wanted.items()}
    tokenizer = tokenizer_files.from_files(
        lambda name: file.read_file(name) if name in file.files else None, f"`{path}`"
    )
    detail = {
        "origin": file.origin,
        "digests": file.digests,
        "producer": file.producer,
        **{key: file.origin[key] for key in _ORIGIN_KEYS if key in file.origin},
    }
    source = Source(path, "bitnet", _encoding(file), detail)
    metadata = check_metadata(file.metadata, file.where)
    return Checkpoint(spec, entries, tokenizer, source, metadata=metadata)


def _encoding(file: NativeFile) -> str:
    """The encoding that most of the file's trits have."""
    sizes: Counter[str] = Counter()
    for row in file.rows.values():
        sizes[row.layout] += math.prod(row.shape)
    return max(ENCODINGS, key=lambda name: sizes[ENCODINGS[name]])


def _check_names(file: NativeFile, wanted: dict[str, Expected]) -> None:
    found = {*file.rows, *file.floats}
    lacking = [name for name in wanted if name not in found]
    for name in [*lacking, *sorted(found - wanted.keys())]:
        missing = name in wanted
        verb = "lacks" if missing else "holds the unknown"
        close = nearest(name, found - wanted.keys() if missing else wanted.keys() - found)
        raise TensorError(
            "model.missing_sub_norm" if missing and "sub_norm" in name else "bitnet.names",
            f"{file.where} {verb} tensor `{name}`, as its own spec has it",
            f"the nearest: {', '.join(close)}" if close else "convert again from the source",
            tensor=name,
        )
    for name, item in wanted.items():
        info = file.safetensors.info(name)
        shape = file.rows[name].shape if name in file.rows else info.shape
        good = name in file.rows or info.dtype in FLOATS
        if shape != item.shape or not good or (name in file.rows and not item.ternary):
            raise TensorError(
                "model.tensor_shape",
                f"{file.where}: tensor `{name}` is {info.dtype} {list(shape)}; the spec asks for "
                f"{list(item.shape)}",
                "convert again from the source",
                tensor=name,
            )


def _entry(file: NativeFile, item: Expected) -> TensorEntry:
    name = item.name
    info = file.safetensors.info(name)
    if name in file.rows:
        row = file.rows[name]
        return TensorEntry(
            name, item.shape, row.dtype, True, lambda: _read_ternary(file, name),
            stored_as=row.layout, nbytes=info.nbytes + _SCALE.itemsize * row.scales[1],
        )  # fmt: skip
    return TensorEntry(
        name,
        item.shape,
        str(info.numpy),
        False,
        lambda: file.read_float(name),
        parts=lambda rows: file.float_parts(name, rows),
        stored_as=info.dtype,
        nbytes=info.nbytes,
    )


def _read_ternary(file: NativeFile, name: str) -> QuantTensor:
    row = file.rows[name]
    codes = file.read_codes(name).view(layout_of(row.layout).dtype)
    tensor = tensor_of(row, codes, file.read_scale(name))
    tensor.verify(name)
    return tensor


def tensor_of(row: Row, codes: Any, scale: Any) -> QuantTensor:
    """The parameter that a row describes, of its packed codes and its scales."""
    return QuantTensor(
        codes=codes,
        scale=scale,
        shape=row.shape,
        dtype=row.dtype,
        stack_axes=row.stack_axes,
        out_axes=row.out_axes,
        in_axes=row.in_axes,
        scale_kind=row.scale_kind,
        group_size=row.group_size,
        scale_dtype=row.scale_dtype,
        kind=row.kind,
        layout=row.layout,
    )


def choose_encoding(checkpoint: Checkpoint, asked: str | None) -> str:
    """The encoding to write: `asked`, or that of a `.bitnet` source, or the first.

    Raises:
      UsageError: `asked` is no encoding of this format (``format.encoding``).
    """
    if asked is None:
        found = checkpoint.source.encoding
        return found if found in ENCODINGS else next(iter(ENCODINGS))
    if asked not in ENCODINGS:
        raise UsageError(
            "format.encoding",
            f"encoding `{asked}` is not one of the bitnet format",
            f"known: {', '.join(ENCODINGS)}",
        )
    return asked


def write_bitnet(
    checkpoint: Checkpoint,
    stream: BinaryIO,
    encoding: str | None = None,
    *,
    jobs: int = 1,
    digest: Callable[[], Digest] | None = None,
) -> Digest:
    """Writes `checkpoint` as a `.bitnet` file; tensors pass through, a few at a time.

    The same checkpoint gives the same bytes, wherever its source lay and whatever `jobs`.

    Args:
      jobs: threads that read tensors and turn them.
      digest: gives the digests once every tensor was read, where somebody takes them on the way.

    Raises:
      UsageError: as `choose_encoding`.
      BadData: a tensor's groups do not fit the encoding's layout (``tensor.group_size``).
    """
    layout = ENCODINGS[choose_encoding(checkpoint, encoding)]
    # The digest wants ascending names, so that is the order of the file.
    names = sorted(checkpoint.entries, key=str.encode)
    entries = checkpoint.entries
    files = tokenizer_files.to_files(checkpoint.tokenizer) if checkpoint.tokenizer else {}
    writer = NativeWriter(
        stream,
        spec=checkpoint.spec.to_json(),
        ternary={n: (entries[n].shape, entries[n].dtype) for n in names if entries[n].ternary},
        floats={
            n: (entries[n].shape, numpy_dtype(entries[n].dtype))
            for n in names
            if not entries[n].ternary
        },
        files=files,
        origin=origin_of(checkpoint.source),
        producer=PRODUCER,
        metadata=checkpoint.metadata,
    )
    builder = DigestBuilder()

    def turned(name: str) -> np.ndarray | QuantTensor | None:
        if is_large(entries[name]):
            return None  # in pieces, below
        value = entries[name].read()
        if not isinstance(value, QuantTensor):
            return np.ascontiguousarray(value)
        return repack(value, layout, name) if value.kind == TERNARY else value

    for name, value in zip(names, each(checkpoint, names, turned, jobs), strict=True):
        if value is None:
            entry = entries[name]
            parts = pieces(entry)
            writer.add_float_parts(name, numpy_dtype(entry.dtype), entry.shape, parts)
        elif isinstance(value, QuantTensor):
            if digest is None:
                builder.add(name, value)
            codes = np.asarray(value.codes).view(np.uint8)
            writer.add_ternary(name, _row(value), codes, np.asarray(value.scale))
        elif entries[name].ternary:
            raise InternalError("bitnet.entry", f"`{name}` said it was ternary, and is not")
        else:
            writer.add_float(name, value)
    result = builder.result() if digest is None else digest()
    writer.finish(result.to_json())
    return result


def _row(tensor: QuantTensor) -> Row:
    return Row(
        shape=tensor.shape,
        dtype=tensor.dtype,
        stack_axes=tensor.stack_axes,
        out_axes=tensor.out_axes,
        in_axes=tensor.in_axes,
        scale_kind=tensor.scale_kind,
        group_size=tensor.group_size,
        scale_dtype=tensor.scale_dtype,
        scales=(0, 0),
        kind=tensor.kind,
        layout=tensor.layout,
    )


def origin_of(source: Source) -> dict[str, Any]:
    """What the first source was: kept from file to file, without paths or times."""
    if source.format == "bitnet":
        return dict(source.detail.get("origin", {}))
    kept = {key: source.detail[key] for key in _ORIGIN_KEYS if source.detail.get(key)}
    return {"format": source.format, "encoding": source.encoding, **kept}
