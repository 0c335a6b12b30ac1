"""Trits as `transformers` packs them: four rows to a byte, strided over the matrix.

With R = ceil(out / 4), byte [r, c] holds rows r, R+r, 2R+r and 3R+r of column c,
the first in the lowest bits, as trit + 1. As
`transformers.integrations.bitnet.pack_weights`, which alters its argument.

`pack` and `unpack` say what that means. `from_lines` and `to_lines` do the same from and to
the layout `t2.16x16` without a byte for each trit, eight times as fast.
"""

from __future__ import annotations

import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.quant.packing import BLOCK, LINE, illegal_codes, pack_trits, unpack_trits

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


# Rows of a packed matrix that are turned at once: with a few thousand inputs, a cache's worth.
_ROWS_AT_ONCE = 8 * BLOCK


def to_lines(packed: np.ndarray, out_features: int, name: str, where: str) -> np.ndarray:
    """Codes in `t2.16x16` of a matrix packed as `pack` does: uint8 [OB, IB, 64].

    Raises:
      TensorError: as `unpack`.
    """
    rows, inputs = packed.shape
    if rows * ROWS_PER_BYTE != out_features or rows % BLOCK or inputs % BLOCK:
        return pack_trits(unpack(packed, out_features, name, where))
    words = packed.view("<u4").reshape(rows, -1, 4)
    lines = np.empty((ROWS_PER_BYTE, rows // BLOCK, words.shape[1], BLOCK), "<u4")
    for start in range(0, rows, _ROWS_AT_ONCE):
        piece = words[start : start + _ROWS_AT_ONCE]
        if illegal_codes(piece.view(np.uint8)).size:
            unpack(packed, out_features, name, where)  # says where
        for plane, turned in enumerate(_exchanged([piece[..., j] for j in range(4)])):
            bands = turned.reshape(-1, BLOCK, turned.shape[1])
            at = start // BLOCK
            lines[plane, at : at + len(bands)] = bands.swapaxes(1, 2)
    return lines.view(np.uint8).reshape(-1, words.shape[1], LINE)


def from_lines(codes: np.ndarray, out_features: int, in_features: int) -> np.ndarray:
    """Inverse of `to_lines`: uint8 [ceil(out/4), in]."""
    rows = packed_rows(out_features)
    if rows * ROWS_PER_BYTE != out_features or rows % BLOCK or in_features % BLOCK:
        return pack(unpack_trits(codes, out_features, in_features))
    lines = np.ascontiguousarray(codes).view("<u4").reshape(ROWS_PER_BYTE, rows // BLOCK, -1, BLOCK)
    words = np.empty((rows, in_features // BLOCK, 4), "<u4")
    bands = _ROWS_AT_ONCE // BLOCK
    for start in range(0, rows // BLOCK, bands):
        planes = [
            lines[plane, start : start + bands].swapaxes(1, 2).reshape(-1, words.shape[1])
            for plane in range(ROWS_PER_BYTE)
        ]
        for j, turned in enumerate(_exchanged(planes)):
            words[start * BLOCK : start * BLOCK + len(turned), :, j] = turned
    return words.view(np.uint8).reshape(rows, in_features)


def _exchanged(words: list[np.ndarray]) -> list[np.ndarray]:
    """Of every byte of four words, bit pair j of word i as bit pair i of word j; its own inverse.

    A 4 x 4 square of bit pairs is transposed by exchanges: neighbours, then pairs of neighbours.
    """
    w = [np.array(word) for word in words]
    for (a, b), shift, mask in (
        ((0, 1), 2, 0x33333333),
        ((2, 3), 2, 0x33333333),
        ((0, 2), 4, 0x0F0F0F0F),
        ((1, 3), 4, 0x0F0F0F0F),
    ):
        swap = ((w[a] >> np.uint32(shift)) ^ w[b]) & np.uint32(mask)
        w[b] ^= swap
        w[a] ^= swap << np.uint32(shift)
    return w
