"""ONNX files as checkpoints: those of ours by their table, those of others by names and a config.

docs/formats/onnx.md says what a file of ours holds. Codes and scales become the very parameters
that were exported, checked against the file's own checksums. Any graph that is no decoder of a
known family is `onnx_function.from_onnx`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native_table import check_scales
from bitnet_jax.containers.onnx_file import OnnxFile, open_onnx
from bitnet_jax.core.errors import BadData, few, shown
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.onnx_codes import AGAIN, quantized, unfit
from bitnet_jax.formats.onnx_foreign import open_foreign
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.quant.kinds import kind_of
from bitnet_jax.quant.tensor import QuantTensor

PREFIX = "bitnet."
# What a file states of its tensors; None where nobody asked.
Sums = Mapping[str, Any] | None
FORMAT = "1"
# float storage -> ONNX's type of the initializer
_FLOATS = {
    "float32": "FLOAT",
    "bfloat16": "BFLOAT16",
    "float16": "FLOAT16",
    "float64": "DOUBLE",
}


def open_onnx_model(path: Path, verify: bool = True) -> Checkpoint:
    """Opens an ONNX file as a model; reads no tensor.

    Args:
      verify: compare the checksums that a file of ours states when its tensors are read.

    Raises:
      BadData: it is damaged or hostile, or nothing tells which model it is; the code says what.
    """
    file = open_onnx(path)
    if PREFIX + "format" not in file.metadata:
        return open_foreign(file)
    return _open_ours(file, verify)


def _open_ours(file: OnnxFile, verify: bool) -> Checkpoint:
    version = file.metadata[PREFIX + "format"]
    if version != FORMAT:
        raise BadData(
            "onnx.format_version",
            f"{file.where} is version {shown(version)} of our ONNX files; known: {FORMAT}",
            "a newer bitnet-jax wrote it: update this one",
        )
    spec_json = _json(file, "spec", None)
    if spec_json is None:
        raise BadData(
            "onnx.no_spec",
            f"{file.where} was made of a function, not of a decoder: it holds no spec",
            "fn, params = bj.from_onnx(path) runs and transforms any graph",
        )
    spec = ModelSpec.from_json(spec_json)
    wanted = expected(spec)
    rows = _json(file, "rows", {})
    # What is multiplied packed and looked up in float stands twice; the float is the parameter.
    rows = {name: row for name, row in rows.items() if name.removesuffix("@dot") not in rows
            or not name.endswith("@dot")}  # fmt: skip
    odd = sorted(rows.keys() ^ wanted.keys())
    if odd:
        raise TensorError(
            "onnx.names",
            f"{file.where}: its table and its own spec differ in {few(odd)}",
            AGAIN,
            tensor=odd[0],
        )
    sums = _json(file, "checksums", {}) if verify else None
    entries = {name: _entry(file, item, rows[name], sums) for name, item in wanted.items()}
    files = {
        key.removeprefix(PREFIX + "file."): text.encode()
        for key, text in file.metadata.items()
        if key.startswith(PREFIX + "file.")
    }
    tokenizer = tokenizer_files.from_files(files.get, file.where)
    detail = {
        "digests": _json(file, "digests", {}),
        "origin": _json(file, "origin", {}),
        "profile": file.metadata.get(PREFIX + "profile"),
        "files": file.data_files,
    }
    source = Source(file.path, "onnx", str(detail["profile"]), detail)
    return Checkpoint(spec, entries, tokenizer, source)


def _json(file: OnnxFile, key: str, default: Any) -> Any:
    text = file.metadata.get(PREFIX + key)
    if text is None:
        return default
    where = f"{file.where}: metadata `{PREFIX}{key}`"
    value = load_json(text.encode("utf-8", "surrogatepass"), code="onnx.metadata", where=where)
    if not isinstance(value, dict):
        raise BadData("onnx.metadata", f"{where} is no JSON object", AGAIN)
    return value


def _entry(file: OnnxFile, item: Expected, raw: Any, sums: Sums) -> TensorEntry:
    if not isinstance(raw, dict) or raw.get("shape") != list(item.shape):
        found = raw.get("shape") if isinstance(raw, dict) else raw
        raise TensorError(
            "model.tensor_shape",
            f"{file.where}: parameter `{item.name}` has shape {shown(found)}; the spec asks for "
            f"{list(item.shape)}",
            AGAIN,
            tensor=item.name,
        )
    if "kind" not in raw:
        return _float_entry(file, item, raw, sums)
    if not item.ternary:
        raise unfit(file, item.name, "it is quantized, and the spec has it in float")
    held = quantized(file, item.name, raw)

    def read() -> QuantTensor:
        _check_sum(file, held.codes, sums)
        _check_sum(file, held.scale, sums)
        found, kind = held.read_codes(), held.row.kind
        high = kind_of(kind).high
        if (found < -high).any() or (found > high).any():
            raise TensorError(
                "onnx.illegal_code",
                f"{file.where}, parameter `{item.name}`: it holds a code that is none of {kind}",
                AGAIN,
                tensor=item.name,
            )
        scale = file.read(held.scale)
        check_scales(item.name, scale, file.where)
        return held.tensor(found, scale)

    nbytes = file.info(held.codes).nbytes + file.info(held.scale).nbytes
    return TensorEntry(
        item.name, item.shape, held.row.dtype, True, read, stored_as=held.storage, nbytes=nbytes
    )


def _float_entry(file: OnnxFile, item: Expected, raw: Mapping[str, Any], sums: Sums) -> TensorEntry:
    dtype, storage, info = raw.get("dtype"), raw.get("storage"), file.info(item.name)
    for value in (dtype, storage):
        if not isinstance(value, str) or value not in _FLOATS:
            raise unfit(file, item.name, f"{shown(value)} is no float type")
    if info.kind.name != _FLOATS[str(storage)] or info.shape != item.shape:
        raise unfit(
            file,
            item.name,
            f"its initializer is {info.kind.name} {list(info.shape)}; its row asks for "
            f"{_FLOATS[str(storage)]} {list(item.shape)}",
        )

    def read() -> np.ndarray:
        _check_sum(file, item.name, sums)
        stored = file.read(item.name)
        value = stored.astype(numpy_dtype(str(dtype)))
        if storage != dtype and not np.array_equal(
            value.astype(stored.dtype), stored, equal_nan=True
        ):
            raise unfit(file, item.name, f"it was widened from {dtype}, and is no {dtype} now")
        return value

    return TensorEntry(
        item.name, item.shape, str(dtype), False, read, stored_as=info.kind.name, nbytes=info.nbytes
    )


def _check_sum(file: OnnxFile, name: str, sums: Sums) -> None:
    if sums is None:
        return
    if name not in sums:  # every file of ours states one: what has none was altered
        raise TensorError(
            "onnx.checksum", f"{file.where} states no checksum of `{name}`", AGAIN, tensor=name
        )
    if xxhash.xxh3_64_hexdigest(file.read_bytes(name).data) != sums[name]:
        raise TensorError(
            "onnx.checksum",
            f"{file.where}: the data of `{name}` is not what was written: its checksum differs",
            "the data file is damaged, or of another model: copy both again",
            tensor=name,
        )
