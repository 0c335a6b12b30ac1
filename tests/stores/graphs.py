"""ONNX models as they lie in stores: of ours, of others, and of those with hostile data files."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import ModelProto
from onnx import TensorProto as T
from onnx import helper as h

from tests.formats import onnx_files
from tests.formats.checkpoints import ONLINE, config, tensors

# What a graph may say of where its data lies, and the code of what comes of it.
HOSTILE = {
    "above": ("../tiny/main/model.safetensors", "onnx.external_path"),
    "absolute": ("/etc/passwd", "onnx.external_path"),
    "missing": ("weights.bin", "onnx.external_missing"),
    "hidden": (".data", "store.file_name"),
}


def ours(model, folder: Path) -> None:
    """``model.onnx`` and its data."""
    folder.mkdir(parents=True)
    onnx_files.write(model, folder / "model.onnx")


def others(folder: Path, location: str = "model.onnx_data", config_in: Path | None = None) -> None:
    """A graph that another exporter could have made, its data at `location`, and a config."""
    found, data = [], bytearray()
    for name, value in tensors(form="master")[0].items():
        raw = value.astype("f4").tobytes()
        proto = T(name=name, data_type=T.FLOAT, dims=value.shape, data_location=T.EXTERNAL)
        for key, row in (("location", location), ("offset", len(data)), ("length", len(raw))):
            proto.external_data.add(key=key, value=str(row))
        data += raw
        found.append(proto)
    (folder / location).parent.mkdir(parents=True)
    write(folder, found)
    (folder / location).write_bytes(bytes(data))
    text = json.dumps(config(quantization=ONLINE))
    ((config_in or folder) / "config.json").write_text(text)


def hostile(folder: Path, location: str) -> None:
    """A graph with one tensor, whose data is said to lie at `location`."""
    folder.mkdir(parents=True)
    proto = T(name="w", data_type=T.FLOAT, dims=[4], data_location=T.EXTERNAL)
    proto.external_data.add(key="location", value=location)
    write(folder, [proto])
    if location.startswith("."):
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(bytes(16))


def write(folder: Path, initializers: list[T]) -> None:
    """``model.onnx`` of these, which computes nothing."""
    graph = h.make_graph(
        [h.make_node("Identity", [initializers[0].name], ["out"])], "g", [],
        [h.make_tensor_value_info("out", T.FLOAT, None)], initializers,
    )  # fmt: skip
    model: ModelProto = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
