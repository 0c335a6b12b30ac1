"""ONNX files of our own format, written by hand from docs/formats/onnx.md, without our exporter.

The graph computes nothing: readers of the format look at the table and the initializers alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import xxhash
from onnx import TensorProto as T
from onnx import helper as h

from bitnet_jax.quant.tensor import QuantTensor

TYPES = {"float32": T.FLOAT, "bfloat16": T.BFLOAT16, "float16": T.FLOAT16, "float64": T.DOUBLE}
CODES = {"int8": T.INT8, "int4": T.INT4, "int2": T.INT2, "nbits2": T.UINT8}


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers to bytes, the first in the lowest bits."""
    fields = values.reshape(-1).astype(np.int64) & ((1 << bits) - 1)
    per = 8 // bits
    fields = np.pad(fields, (0, -len(fields) % per)).reshape(-1, per)
    return (fields << (np.arange(per) * bits)).sum(1).astype(np.uint8)


def stored(codes: np.ndarray, storage: str, block: int) -> tuple[list[int], np.ndarray]:
    """Shape and bytes of codes [*stack, out, in]."""
    if storage != "nbits2":
        turned = np.swapaxes(codes, -1, -2)
        return list(turned.shape), packed(turned, {"int8": 8, "int4": 4, "int2": 2}[storage])
    out, inner = codes.shape
    rows = np.pad(codes, ((0, 0), (0, -inner % block))) + 2
    return [out, rows.shape[1] // block, block // 4], packed(rows, 2)


def write(
    checkpoint, path: Path, storage: str = "int8", *, widen: bool = False, block: int = 32,
    inline: bool = False,
) -> Path:  # fmt: skip
    """Writes a checkpoint; `widen`: 16-bit floats as float32; `inline`: no data file."""
    rows, sums, protos, data = {}, {}, [], bytearray()

    def add(name: str, kind: int, shape, raw: np.ndarray) -> None:
        raw = np.ascontiguousarray(raw).reshape(-1).view(np.uint8).tobytes()
        sums[name] = xxhash.xxh3_64_hexdigest(raw)
        proto = T(name=name, data_type=kind, dims=shape)
        if inline:
            proto.raw_data = raw
        else:
            data.extend(b"\0" * (-len(data) % 64))
            proto.data_location = T.EXTERNAL
            for key, value in (
                ("location", path.name + ".data"), ("offset", len(data)), ("length", len(raw)),
            ):  # fmt: skip
                proto.external_data.add(key=key, value=str(value))
            data.extend(raw)
        protos.append(proto)

    for name, entry in checkpoint.entries.items():
        value = entry.read()
        if isinstance(value, QuantTensor):
            shape, raw = stored(np.asarray(value.codes_matrix()), storage, block)
            add(f"{name}.codes", CODES[storage], shape, raw)
            scale = np.asarray(value.scale, np.float32)
            add(f"{name}.scale", T.FLOAT, scale.shape, scale)
            axes = ("stack_axes", "out_axes", "in_axes")
            words = ("kind", "dtype", "scale_kind", "group_size", "scale_dtype")
            rows[name] = {
                "shape": list(value.shape), "storage": storage,
                **{key: getattr(value, key) for key in words},
                **{key: list(getattr(value, key)) for key in axes},
            }  # fmt: skip
            if storage == "nbits2":
                rows[name]["block_size"] = block
        else:
            dtype = str(value.dtype)
            kept = "float32" if widen and dtype in ("bfloat16", "float16") else dtype
            add(
                name, TYPES[kept], value.shape, value.astype(np.float32) if kept != dtype else value
            )
            rows[name] = {"shape": list(value.shape), "dtype": dtype, "storage": kept}
    graph = h.make_graph(
        [h.make_node("Identity", [protos[0].name], ["out"])], "g", [],
        [h.make_tensor_value_info("out", protos[0].data_type, None)], protos,
    )  # fmt: skip
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11)
    files = {}
    if checkpoint.tokenizer is not None:
        files["bitnet.file.tokenizer.json"] = checkpoint.tokenizer.tokenizer_json.decode()
        files["bitnet.file.tokenizer_config.json"] = json.dumps(dict(checkpoint.tokenizer.config))
    metadata = {
        "bitnet.format": "1",
        "bitnet.profile": "portable",
        "bitnet.spec": json.dumps(checkpoint.spec.to_json()),
        "bitnet.digests": json.dumps(checkpoint.digest().to_json()),
        "bitnet.rows": json.dumps(rows),
        "bitnet.checksums": json.dumps(sums),
        **files,
    }
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])
    path.write_bytes(model.SerializeToString(deterministic=True))
    if not inline:
        path.with_name(path.name + ".data").write_bytes(bytes(data))
    return path


def edit(path: Path, change) -> Path:
    """`change`s the model in a file, which is not loaded with its data."""
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def metadata(key: str, change):
    """A change of one JSON text of the metadata."""

    def apply(model) -> None:
        for item in model.metadata_props:
            if item.key == key:
                value = json.loads(item.value)
                item.value = json.dumps(change(value) or value)

    return apply
