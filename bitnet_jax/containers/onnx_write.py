"""Writing the data file of an ONNX model: tensors one after another, no model in memory.

`docs/formats/onnx.md` says what a file of ours holds. Knows bytes, names and offsets; no graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import xxhash
from onnx import ModelProto, TensorProto

from bitnet_jax.core.errors import CannotCreate

# As ONNX itself aligns them: large tensors so that every system can map them.
LARGE, LARGE_STEP, STEP = 1 << 20, 1 << 16, 64
# What protobuf can hold.
MOST_GRAPH_BYTES = (1 << 31) - 1


def data_name(graph: str) -> str:
    """The data file's name, of the graph's."""
    return graph + ".data"


class DataWriter:
    """The data file in the making: `add` each tensor, in any order.

    Args:
      stream: a binary file, empty.
      location: the name that the file will have, beside the graph.

    Attributes:
      checksums: XXH3-64 of each tensor's bytes, by name.
    """

    def __init__(self, stream: BinaryIO, location: str):
        self._stream, self._location = stream, location
        self._at = 0
        self.checksums: dict[str, str] = {}

    def add(self, name: str, onnx_type: int, shape: Sequence[int], data: np.ndarray) -> TensorProto:
        """Writes a tensor's bytes; returns the initializer that refers to them.

        Args:
          data: contiguous, with exactly the bytes that ONNX has for that type and shape.
        """
        raw = memoryview(data.reshape(-1).view(np.uint8))
        step = LARGE_STEP if raw.nbytes >= LARGE else STEP
        gap = -self._at % step
        self._stream.write(bytes(gap))
        self._stream.write(raw)
        tensor = TensorProto(name=name, data_type=onnx_type)
        tensor.dims.extend(shape)
        tensor.data_location = TensorProto.EXTERNAL
        where = {
            "location": self._location,
            "offset": str(self._at + gap),
            "length": str(raw.nbytes),
        }
        for key, value in where.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        self._at += gap + raw.nbytes
        self.checksums[name] = xxhash.xxh3_64_hexdigest(raw)
        return tensor


def set_metadata(model: ModelProto, values: Mapping[str, str]) -> None:
    """Sets the model's properties, in ascending order of their keys."""
    del model.metadata_props[:]
    for key in sorted(values):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, values[key]


def write_graph(model: ModelProto, stream: BinaryIO, where: Any) -> None:
    """Writes the graph, the same bytes for the same model.

    Raises:
      CannotCreate: it is larger than a protobuf can be (``onnx.graph_size``).
    """
    size = model.ByteSize()
    if size > MOST_GRAPH_BYTES:
        raise CannotCreate(
            "onnx.graph_size",
            f"`{where}` would be {size} bytes; a protobuf holds {MOST_GRAPH_BYTES}",
            "parameters are outside it already: close over fewer and smaller constants",
        )
    stream.write(model.SerializeToString(deterministic=True))
