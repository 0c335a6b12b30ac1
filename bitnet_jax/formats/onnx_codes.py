"""Quantized parameters in ONNX files of ours: how their codes are stored, and had again.

docs/formats/onnx.md says what stands where. For whoever reads such a file: as a checkpoint
(`formats/onnx.py`), or to tell what was just written (`export/reopen.py`). Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native_table import Row, parse_row
from bitnet_jax.containers.onnx_file import OnnxFile
from bitnet_jax.core.errors import shown
from bitnet_jax.formats.native import tensor_of
from bitnet_jax.formats.onnx_ops.quantized import codes_of
from bitnet_jax.quant.layouts import LAYOUT_OF, pack_codes
from bitnet_jax.quant.tensor import QuantTensor

AGAIN = "the file is damaged, or was edited: export it again"


@dataclass(frozen=True)
class Quantized:
    """A quantized parameter of a file, not read yet.

    Invariant: its two initializers have the types and shapes that its row asks for.

    Attributes:
      codes, scale: the initializers' names.
    """

    file: OnnxFile
    row: Row
    storage: str
    block: int
    codes: str
    scale: str

    def read_codes(self) -> np.ndarray:
        """Its codes, int8 [*stack, out, in]; what fills up blocks is looked at by no one."""
        _, _, codes_in = _STORAGES[self.storage]
        return codes_in(self.file.read(self.codes), self.row, self.block)

    def tensor(self, codes: np.ndarray, scale: np.ndarray) -> QuantTensor:
        """The parameter, of its codes and scales."""
        return tensor_of(self.row, pack_codes(np.ascontiguousarray(codes), self.row.layout), scale)


def quantized(file: OnnxFile, name: str, raw: Mapping[str, Any]) -> Quantized:
    """The parameter of a row of ``bitnet.rows`` that has a kind; reads nothing.

    Raises:
      TensorError: the row is none (``bitnet.…``), or its initializers are others than it says
        (``onnx.rows``, ``onnx.missing``).
    """
    codes, scale = f"{name}.codes", f"{name}.scale"
    file.info(codes)
    count = math.prod(file.info(scale).shape)
    kind = raw["kind"]
    layout = LAYOUT_OF.get(kind) if isinstance(kind, str) else None
    row = parse_row(name, {**raw, "layout": layout, "scales": [0, count]}, file.where)
    storage = raw.get("storage")
    if not isinstance(storage, str) or storage not in _STORAGES:
        raise unfit(file, name, f"storage {shown(storage)} is none of {', '.join(_STORAGES)}")
    wanted, shape_of, _ = _STORAGES[storage]
    block = raw.get("block_size", 0)
    if storage == "nbits2" and (type(block) is not int or block < 16 or block & (block - 1)):
        raise unfit(file, name, f"block_size {shown(block)} is no power of two from 16 on")
    for initializer, type_name, shape in (
        (codes, wanted, shape_of(row, block)),
        (scale, "FLOAT", row.scale_shape),
    ):
        info = file.info(initializer)
        if info.kind.name != type_name or info.shape != shape:
            raise unfit(
                file,
                name,
                f"initializer `{initializer}` is {info.kind.name} {list(info.shape)}; its row asks "
                f"for {type_name} {list(shape)}",
            )
    return Quantized(file, row, storage, block, codes, scale)


def unfit(file: OnnxFile, name: str, what: str) -> TensorError:
    """The error for a parameter that is not what its row says."""
    return TensorError("onnx.rows", f"{file.where}, parameter `{name}`: {what}", AGAIN, tensor=name)


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
