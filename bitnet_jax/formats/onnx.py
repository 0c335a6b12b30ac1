"""ONNX files as checkpoints: those of ours by their table, those of others by names and a config.

docs/formats/onnx.md says what a file of ours holds. Codes and scales become the very parameters
that were exported, checked against the file's own checksums. Any graph that is no decoder of a
known family is `onnx_function.from_onnx`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native_table import Row, check_scales, parse_row
from bitnet_jax.containers.onnx_file import OnnxFile, open_onnx
from bitnet_jax.core.errors import BadData, few, shown
from bitnet_jax.formats import tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint, Source, TensorEntry
from bitnet_jax.formats.onnx_foreign import open_foreign
from bitnet_jax.formats.onnx_ops.quantized import codes_of
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.names import Expected, expected
from bitnet_jax.quant.layouts import LAYOUT_OF, pack_codes
from bitnet_jax.quant.tensor import TERNARY, QuantTensor

PREFIX = "bitnet."
FORMAT = "1"
_AGAIN = "the file is damaged, or was edited: export it again"
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
            _AGAIN,
            tensor=odd[0],
        )
    sums = _json(file, "checksums", {}) if verify else {}
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
        raise BadData("onnx.metadata", f"{where} is no JSON object", _AGAIN)
    return value


def _entry(file: OnnxFile, item: Expected, raw: Any, sums: Mapping[str, Any]) -> TensorEntry:
    if not isinstance(raw, dict) or raw.get("shape") != list(item.shape):
        found = raw.get("shape") if isinstance(raw, dict) else raw
        raise TensorError(
            "model.tensor_shape",
            f"{file.where}: parameter `{item.name}` has shape {shown(found)}; the spec asks for "
            f"{list(item.shape)}",
            _AGAIN,
            tensor=item.name,
        )
    if "kind" not in raw:
        return _float_entry(file, item, raw, sums)
    if not item.ternary:
        raise _unfit(file, item.name, "it is quantized, and the spec has it in float")
    codes, scale = f"{item.name}.codes", f"{item.name}.scale"
    file.info(codes)
    count = math.prod(file.info(scale).shape)
    row = parse_row(
        item.name, {**raw, "layout": LAYOUT_OF[TERNARY], "scales": [0, count]}, file.where
    )
    storage = raw.get("storage")
    if not isinstance(storage, str) or storage not in _STORAGES:
        raise _unfit(file, item.name, f"storage {shown(storage)} is none of {', '.join(_STORAGES)}")
    kind, shape_of, codes_in = _STORAGES[storage]
    block = raw.get("block_size", 0)
    if storage == "nbits2" and (type(block) is not int or block < 16 or block & (block - 1)):
        raise _unfit(file, item.name, f"block_size {shown(block)} is no power of two from 16 on")
    for name, wanted, shape in (
        (codes, kind, shape_of(row, block)),
        (scale, "FLOAT", row.scale_shape),
    ):
        info = file.info(name)
        if info.kind.name != wanted or info.shape != shape:
            raise _unfit(
                file,
                item.name,
                f"initializer `{name}` is {info.kind.name} {list(info.shape)}; its row asks for "
                f"{wanted} {list(shape)}",
            )

    def read() -> QuantTensor:
        _check_sum(file, codes, sums)
        _check_sum(file, scale, sums)
        found = codes_in(file.read(codes), row, block)
        if (found < -1).any() or (found > 1).any():
            raise TensorError(
                "onnx.illegal_code",
                f"{file.where}, parameter `{item.name}`: it holds a code that is no trit",
                _AGAIN,
                tensor=item.name,
            )
        scales = file.read(scale)
        check_scales(item.name, scales, file.where)
        return QuantTensor(
            codes=pack_codes(np.ascontiguousarray(found), row.layout),
            scale=scales,
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

    return TensorEntry(
        item.name, item.shape, row.dtype, True, read,
        stored_as=storage, nbytes=file.info(codes).nbytes + file.info(scale).nbytes,
    )  # fmt: skip


def _float_entry(
    file: OnnxFile, item: Expected, raw: Mapping[str, Any], sums: Mapping[str, Any]
) -> TensorEntry:
    dtype, storage, info = raw.get("dtype"), raw.get("storage"), file.info(item.name)
    for value in (dtype, storage):
        if not isinstance(value, str) or value not in _FLOATS:
            raise _unfit(file, item.name, f"{shown(value)} is no float type")
    if info.kind.name != _FLOATS[str(storage)] or info.shape != item.shape:
        raise _unfit(
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
            raise _unfit(file, item.name, f"it was widened from {dtype}, and is no {dtype} now")
        return value

    return TensorEntry(
        item.name, item.shape, str(dtype), False, read, stored_as=info.kind.name, nbytes=info.nbytes
    )


def _unfit(file: OnnxFile, name: str, what: str) -> TensorError:
    return TensorError(
        "onnx.rows", f"{file.where}, parameter `{name}`: {what}", _AGAIN, tensor=name
    )


def _check_sum(file: OnnxFile, name: str, sums: Mapping[str, Any]) -> None:
    stated = sums.get(name)
    if stated is not None and xxhash.xxh3_64_hexdigest(file.read_bytes(name).data) != stated:
        raise TensorError(
            "onnx.checksum",
            f"{file.where}: the data of `{name}` is not what was written: its checksum differs",
            "the data file is damaged, or of another model: copy both again",
            tensor=name,
        )


# ------------------------------------------------------------------- how codes are stored
def _turned(row: Row, block: int) -> tuple[int, ...]:
    return (*row.stack, row.in_features, row.out_features)


def _from_turned(values: np.ndarray, row: Row, block: int) -> np.ndarray:
    return np.swapaxes(values.astype(np.int8), -1, -2)


def _blocks(row: Row, block: int) -> tuple[int, ...]:
    return (row.out_features, -(-row.in_features // block), block // 4)


def _from_blocks(values: np.ndarray, row: Row, block: int) -> np.ndarray:
    codes = codes_of(values.reshape(row.out_features, -1), 2, -(-row.in_features // block) * block)
    found = codes.astype(np.int8) - np.int8(2)
    if found[:, row.in_features :].any():
        return found  # filled up with something: told as a code that is none
    return found[:, : row.in_features]


# storage -> the initializer's type, its shape, and how int8 codes [*stack, out, in] are had
_STORAGES: dict[
    str,
    tuple[
        str,
        Callable[[Row, int], tuple[int, ...]],
        Callable[[np.ndarray, Row, int], np.ndarray],
    ],
] = {
    "int8": ("INT8", _turned, _from_turned),
    "int4": ("INT4", _turned, _from_turned),
    "int2": ("INT2", _turned, _from_turned),
    "nbits2": ("UINT8", _blocks, _from_blocks),
}
