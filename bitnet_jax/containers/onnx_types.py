"""The element types of ONNX: what each is in numpy, and how its elements lie in bytes.

One table. The types below a byte are packed with the first element in the lowest bits.
Knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class ElementType:
    """One row.

    Attributes:
      name: ONNX's own.
      numpy: the dtype that a tensor of it is read as.
      bits: of one element in a file.
      field: the protobuf's field for elements that are no raw bytes.
    """

    name: str
    numpy: np.dtype
    bits: int
    field: str


def _row(name: str, dtype: object, field: str, bits: int | None = None) -> ElementType:
    found = np.dtype(dtype)  # type: ignore[call-overload]
    return ElementType(name, found, found.itemsize * 8 if bits is None else bits, field)


# TensorProto.DataType -> its row. STRING (8) and the 6-bit floats are no numbers of a model here.
TYPES: dict[int, ElementType] = {
    1: _row("FLOAT", "<f4", "float_data"),
    2: _row("UINT8", "u1", "int32_data"),
    3: _row("INT8", "i1", "int32_data"),
    4: _row("UINT16", "<u2", "int32_data"),
    5: _row("INT16", "<i2", "int32_data"),
    6: _row("INT32", "<i4", "int32_data"),
    7: _row("INT64", "<i8", "int64_data"),
    9: _row("BOOL", "?", "int32_data"),
    10: _row("FLOAT16", "<f2", "int32_data"),
    11: _row("DOUBLE", "<f8", "double_data"),
    12: _row("UINT32", "<u4", "uint64_data"),
    13: _row("UINT64", "<u8", "uint64_data"),
    14: _row("COMPLEX64", "<c8", "float_data"),
    15: _row("COMPLEX128", "<c16", "double_data"),
    16: _row("BFLOAT16", ml_dtypes.bfloat16, "int32_data"),
    17: _row("FLOAT8E4M3FN", ml_dtypes.float8_e4m3fn, "int32_data"),
    18: _row("FLOAT8E4M3FNUZ", ml_dtypes.float8_e4m3fnuz, "int32_data"),
    19: _row("FLOAT8E5M2", ml_dtypes.float8_e5m2, "int32_data"),
    20: _row("FLOAT8E5M2FNUZ", ml_dtypes.float8_e5m2fnuz, "int32_data"),
    21: _row("UINT4", ml_dtypes.uint4, "int32_data", 4),
    22: _row("INT4", ml_dtypes.int4, "int32_data", 4),
    23: _row("FLOAT4E2M1", ml_dtypes.float4_e2m1fn, "int32_data", 4),
    24: _row("FLOAT8E8M0", ml_dtypes.float8_e8m0fnu, "int32_data"),
    25: _row("UINT2", ml_dtypes.uint2, "int32_data", 2),
    26: _row("INT2", ml_dtypes.int2, "int32_data", 2),
}
STRING = 8
BY_NAME = {row.name: row for row in TYPES.values()}


def byte_size(kind: ElementType, shape: Sequence[int]) -> int:
    """Bytes that a tensor of `shape` takes in a file (Python integers: nothing overflows)."""
    return -(-math.prod(shape) * kind.bits // 8)


def from_bytes(raw: np.ndarray, kind: ElementType, shape: Sequence[int]) -> np.ndarray:
    """The tensor that `raw` (uint8) holds; `raw` has `byte_size` bytes."""
    if kind.bits >= 8:
        return raw.view(kind.numpy).reshape(shape)
    return _spread(raw, kind, shape)


def _spread(raw: np.ndarray, kind: ElementType, shape: Sequence[int]) -> np.ndarray:
    per_byte, mask = 8 // kind.bits, (1 << kind.bits) - 1
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(kind.bits)
    codes = (raw[:, None] >> shifts & np.uint8(mask)).reshape(-1)[: math.prod(shape)]
    return _of_codes(codes, kind).reshape(shape)


def _of_codes(codes: np.ndarray, kind: ElementType) -> np.ndarray:
    """Elements from their bit patterns, one in each uint8."""
    if kind.numpy.kind == "V" and kind.name.startswith("FLOAT"):
        return codes.view(kind.numpy)
    if kind.name.startswith("INT"):
        half = 1 << kind.bits - 1
        return ((codes.astype(np.int8) ^ half) - half).astype(kind.numpy)
    return codes.astype(kind.numpy)


def from_field(values: np.ndarray, kind: ElementType, shape: Sequence[int]) -> np.ndarray:
    """The tensor whose elements stand in the protobuf's typed field.

    Raises:
      ValueError: an element is none of the type, or there are too few or too many.
    """
    count = math.prod(shape)
    if kind.bits < 8:
        packed = _exact(values, np.dtype(np.uint8))
        if len(packed) != byte_size(kind, shape):
            raise ValueError(f"{len(packed)} bytes of elements for {count}")
        return _spread(packed, kind, shape)
    if kind.numpy.kind == "c":
        found = values.view(kind.numpy)
    elif kind.field == "int32_data" and kind.numpy.kind in "fV":
        # Floats of 8 and 16 bits stand there as their bits.
        found = _exact(values, np.dtype(f"u{kind.numpy.itemsize}")).view(kind.numpy)
    else:
        found = _exact(values, kind.numpy)
    if found.size != count:
        raise ValueError(f"{found.size} elements for {count}")
    return found.reshape(shape)


def _exact(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    found = values.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(found.astype(values.dtype), values):
        raise ValueError(f"an element is no {dtype}")
    return found
