"""Opening an ONNX file of ours again, to tell what is in it: codes, scales, digests.

By the file's own table, not by what was meant to be written. Knows no graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bitnet_jax.core.errors import InternalError
from bitnet_jax.quant.digest import Digest, DigestBuilder
from bitnet_jax.quant.tensor import QuantTensor, from_codes


@dataclass(frozen=True)
class Written:
    """A file's graph without its data, and where that stands."""

    model: onnx.ModelProto
    path: Path
    rows: Mapping[str, Mapping[str, Any]]

    def bytes_of(self, name: str) -> np.ndarray:
        """The bytes of an initializer, uint8."""
        tensor = next(t for t in self.model.graph.initializer if t.name == name)
        where = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(where["offset"]), int(where["length"])
        with open(self.path.parent / where["location"], "rb") as stream:
            stream.seek(offset)
            data = np.frombuffer(stream.read(length), np.uint8)
        if data.size != length:
            raise InternalError("export.written", f"`{name}` is cut short in what was written")
        return data

    def tensors(self) -> Iterator[tuple[str, QuantTensor]]:
        """The quantized parameters, by ascending name, their codes [*stack, out, in] int8."""
        for name, row in self.rows.items():
            if "kind" not in row:
                continue
            sizes = {
                part: [row["shape"][axis] for axis in row[f"{part}_axes"]]
                for part in ("stack", "out", "in")
            }
            out, inner = math.prod(sizes["out"]), math.prod(sizes["in"])
            codes = _codes(self.bytes_of(f"{name}.codes"), row, sizes["stack"], out, inner)
            scale = self.bytes_of(f"{name}.scale").view("<f4")
            shape = {"tensor": (), "row": (out,)}.get(row["scale_kind"])
            if shape is None:
                shape = (out, inner // row["group_size"])
            yield (
                name,
                from_codes(
                    codes,
                    scale.reshape((*sizes["stack"], *shape)),
                    kind=row["kind"],
                    scale_kind=row["scale_kind"],
                    group_size=row["group_size"],
                    scale_dtype=row["scale_dtype"],
                    dtype=row["dtype"],
                ),
            )

    def digest(self) -> Digest:
        """Digests of the ternary parameters."""
        builder = DigestBuilder()
        for name, tensor in self.tensors():
            builder.add(name, tensor)
        return builder.result()


def reopen(path: Path) -> Written:
    """Opens a file that was just written."""
    model = onnx.load(str(path), load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Written(model, path, json.loads(metadata["bitnet.rows"]))


def _fields(data: np.ndarray, bits: int) -> np.ndarray:
    """The fields of so many bits, the first in the lowest, as two's complement."""
    spread = data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    unused = np.uint8(8 - bits)
    return (spread.reshape(-1) << unused).astype(np.uint8).view(np.int8) >> unused.astype(np.int8)


def _codes(
    data: np.ndarray, row: Mapping[str, Any], stack: list[int], out: int, inner: int
) -> np.ndarray:
    if row["storage"] == "nbits2":
        fields = (data[:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)).reshape(
            out, -1
        )
        return fields.reshape(out, -1)[:, :inner].astype(np.int8) - np.int8(2)
    bits = {"int8": 8, "int4": 4, "int2": 2}[row["storage"]]
    flat = data.view(np.int8) if bits == 8 else _fields(data, bits)
    count = math.prod([*stack, inner, out])
    return np.ascontiguousarray(np.swapaxes(flat[:count].reshape(*stack, inner, out), -1, -2))
