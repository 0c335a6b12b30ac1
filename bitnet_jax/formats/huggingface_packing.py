"""Trits as `transformers` packs them: four rows to a byte, strided over the matrix.

With R = ceil(out / 4), byte [r, c] holds rows r, R+r, 2R+r and 3R+r of column c,
the first in the lowest bits, as trit + 1. As
`transformers.integrations.bitnet.pack_weights`, which alters its argument.
"""

from __future__ import annotations

import numpy as np

from bitnet_jax.containers.errors import TensorError

ROWS_PER_BYTE = 4


def packed_rows(out_features: int) -> int:
    """Rows of the packed matrix."""
    return -(-out_features // ROWS_PER_BYTE)


def pack(trits: np.ndarray) -> np.ndarray:
    """Packs int8 trits [out, in] into uint8 [ceil(out/4), in].

    Rows beyond `out` are code 0, as the library leaves them.
    """
    out_features, in_features = trits.shape
    rows = packed_rows(out_features)
    packed = np.zeros((rows, in_features), np.uint8)
    for i in range(ROWS_PER_BYTE):
        plane = trits[i * rows : (i + 1) * rows]
        packed[: len(plane)] |= (plane + 1).astype(np.uint8) << np.uint8(2 * i)
    return packed


def unpack(packed: np.ndarray, out_features: int, name: str, where: str) -> np.ndarray:
    """Inverse of `pack`; rows beyond `out_features` are dropped unseen.

    Raises:
      TensorError: a code is 0b11 (code ``huggingface.illegal_code``).
    """
    rows = packed.shape[0]
    trits = np.empty((out_features, packed.shape[1]), np.int8)
    for i in range(ROWS_PER_BYTE):
        plane = trits[i * rows : (i + 1) * rows]
        codes = (packed[: len(plane)] >> np.uint8(2 * i)) & np.uint8(3)
        np.subtract(codes.view(np.int8), 1, out=plane)
    bad = np.flatnonzero(trits == 2)
    if bad.size:
        row, column = divmod(int(bad[0]), trits.shape[1])
        raise TensorError(
            "huggingface.illegal_code",
            f"{where}, tensor `{name}`: {bad.size} codes are 0b11, which is no trit; the first at "
            f"[{row}, {column}]",
            "the file is damaged, or packed by another convention: download or convert it again",
            tensor=name,
        )
    return trits
