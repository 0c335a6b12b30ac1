"""The types of a GGUF file: those of its metadata, and those its tensors are stored in.

Tables only; the codecs of the blocks stand in `gguf_ternary.py` and `gguf_blocks.py`. Numbers
are those of ggml's enums (`gguf/constants.py` of llama.cpp), I2_S that of bitnet.cpp's fork.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32

# ------------------------------------------------------------------ metadata values
STRING, ARRAY, BOOL = 8, 9, 7
# type number -> numpy dtype of the numbers; BOOL is a byte that must be 0 or 1
SCALARS: dict[int, np.dtype] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
# The name of each in our own code: ("u32", 5) is a value to write.
KINDS: dict[str, int] = {
    "u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": BOOL,
    "string": STRING, "u64": 10, "i64": 11, "f64": 12,
}  # fmt: skip


# ------------------------------------------------------------------------- tensors
@dataclass(frozen=True)
class TensorType:
    """One way to store a tensor's elements.

    Attributes:
      id: ggml's number.
      block: elements that share a block, consecutive in a row.
      nbytes: of one block.
      tail: bytes after the last block, once for each tensor.
    """

    name: str
    id: int
    block: int
    nbytes: int
    tail: int = 0

    def size(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of `shape`, whose last axis is a whole number of blocks."""
        return math.prod(shape) // self.block * self.nbytes + self.tail


TYPES: dict[str, TensorType] = {
    row.name: row
    for row in (
        TensorType("F32", 0, 1, 4),
        TensorType("F16", 1, 1, 2),
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("Q6_K", 14, 256, 210),
        TensorType("BF16", 30, 1, 2),
        TensorType("TQ1_0", 34, 256, 54),
        TensorType("TQ2_0", 35, 256, 66),
        # bitnet.cpp's: the whole tensor flat, 128 elements to 32 bytes, then 32 bytes of scale.
        TensorType("I2_S", 36, 128, 32, tail=32),
    )
}
BY_ID: dict[int, TensorType] = {row.id: row for row in TYPES.values()}

# Types that exist and are not read here, so that an error can name them.
OTHERS: dict[int, str] = {
    3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K",
    15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 37: "I8_S (bitnet.cpp)", 38: "TL1 (bitnet.cpp)",
    39: "MXFP4, or bitnet.cpp's TL2", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip
