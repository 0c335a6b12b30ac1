"""Trits to packed codes and back, in the layout that packing gives them (`layouts.py`).

`t2.16x16` (2 bits a trit): a matrix [out, in] is padded with zero trits to
multiples of 16 and cut into blocks of 16 rows and 16 columns; a block is one
64-byte line. Byte ``4*r + p`` of a line holds, in bits ``2j`` and ``2j+1``, the
code (trit + 1) of row ``r`` and column ``4*j + p`` of the block. So a line
shifted right by ``2j`` and masked with 3 is 16 rows of 4 consecutive columns:
the left operand of VPDPBUSD against 4 activations broadcast to all lanes, and
one row of an AMX tile. Any run of blocks along either axis is valid by itself,
so shards need no repacking.

The same code serves numpy and JAX arrays. Knows nothing of scales.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData
from bitnet_jax.quant.absmean import namespace

LAYOUT = "t2.16x16"
BLOCK = 16
LINE = 64


def blocks(size: int) -> int:
    """Number of 16-wide blocks that hold `size` rows or columns."""
    return -(-size // BLOCK)


def codes_shape(out_features: int, in_features: int) -> tuple[int, int, int]:
    """Shape of the packed codes of one [out, in] matrix."""
    return blocks(out_features), blocks(in_features), LINE


def pack_trits(trits: Any) -> Any:
    """Packs int8 trits [..., out, in] into uint8 codes [..., OB, IB, 64].

    Values outside {-1, 0, 1} are the caller's bug and give unspecified codes;
    `check_trits` is for data that is not trusted.
    """
    xp = namespace(trits)
    *lead, out_features, in_features = trits.shape
    ob, ib, _ = codes_shape(out_features, in_features)
    pad = [(0, 0)] * len(lead) + [
        (0, ob * BLOCK - out_features),
        (0, ib * BLOCK - in_features),
    ]
    codes = (xp.pad(trits, pad) + 1).astype(np.uint8)
    # [..., ob, r, ib, j, p] -> four bit pairs j of [..., ob, ib, r, p]
    codes = codes.reshape(*lead, ob, BLOCK, ib, 4, 4)
    packed = codes[..., 0, :]
    for j in range(1, 4):
        packed = packed | (codes[..., j, :] << np.uint8(2 * j))
    packed = xp.moveaxis(packed, -3, -2)  # [..., ob, r, ib, p] -> [..., ob, ib, r, p]
    return packed.reshape(*lead, ob, ib, LINE)


def unpack_trits(codes: Any, out_features: int, in_features: int) -> Any:
    """Inverse of `pack_trits`: uint8 [..., OB, IB, 64] to int8 [..., out, in].

    The illegal code 3 comes out as 2; see `illegal_codes`.
    """
    if namespace(codes) is np:
        trits = _TRITS[plain_bytes(codes)].view(np.int8)
        width = codes.shape[-2] * BLOCK
        return trits.reshape(*trits.shape[:-2], width)[..., :out_features, :in_features]
    xp = namespace(codes)
    *lead, ob, ib, _ = codes.shape
    lines = codes.reshape(*lead, ob, ib, BLOCK, 1, 4)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    pairs = (lines >> shifts) & np.uint8(3)  # [..., ob, ib, r, j, p]
    trits = pairs.astype(np.int8) - np.int8(1)
    trits = xp.moveaxis(trits, -4, -3)  # [..., ob, r, ib, j, p]
    trits = trits.reshape(*lead, ob * BLOCK, ib * BLOCK)
    return trits[..., :out_features, :in_features]


# The four trits of each plain byte, as the four bytes of one word.
_TRITS = np.array(
    [[(byte >> 2 * i & 3) - 1 for i in range(4)] for byte in range(256)], np.int8
).view("<u4")[:, 0]


# Bytes that are turned at once: they and what is made of them stay in a core's cache.
_AT_ONCE = 1 << 16


def plain_bytes(codes: np.ndarray) -> np.ndarray:
    """Packed codes as plain row-major codes, four consecutive columns to a byte.

    A line's row is a 4 x 4 square of codes (bytes p, bit pairs j); transposing it,
    by two exchanges of bit pairs, turns strided columns into consecutive ones.

    Returns:
      uint8 [..., OB*16, IB*4, 1] (the last axis lets a table widen each byte).
    """
    *lead, ob, ib, _ = codes.shape
    lines = np.ascontiguousarray(codes).view("<u4").reshape(math.prod(lead) * ob, ib, BLOCK)
    rows = np.empty((len(lines), BLOCK, ib), "<u4")
    wide = _AT_ONCE // (BLOCK * 4)
    high = max(1, wide // max(ib, 1))
    held = np.empty((2, min(high, len(lines)), min(wide, ib), BLOCK), "<u4")
    for i, j in itertools.product(range(0, len(lines), high), range(0, ib, wide)):
        words = lines[i : i + high, j : j + wide]
        swap, turned = held[:, : len(words), : words.shape[1]]
        _exchange(words, 6, 0x00CC00CC, swap, turned)
        _exchange(turned, 12, 0x0000F0F0, swap, turned)
        rows[i : i + high, :, j : j + wide] = np.swapaxes(turned, -1, -2)
    return rows.view(np.uint8).reshape(*lead, ob * BLOCK, ib * 4, 1)


def _exchange(words: np.ndarray, shift: int, mask: int, swap: np.ndarray, out: np.ndarray) -> None:
    """The bits of `mask` and those `shift` above them exchanged; `swap` is overwritten."""
    np.right_shift(words, np.uint32(shift), out=swap)
    np.bitwise_xor(swap, words, out=swap)
    np.bitwise_and(swap, np.uint32(mask), out=swap)
    np.multiply(swap, np.uint32(1 + (1 << shift)), out=swap)  # at both places: they do not meet
    np.bitwise_xor(words, swap, out=out)


def illegal_codes(codes: np.ndarray) -> np.ndarray:
    """Flat indices of bytes of `codes` that hold the illegal code 0b11 anywhere."""
    both = codes & (codes >> np.uint8(1)) & np.uint8(0x55)
    return np.flatnonzero(both)


def check_trits(trits: np.ndarray, name: str) -> None:
    """Raises `BadData` unless every value of `trits` is -1, 0 or 1."""
    bad = np.flatnonzero((trits < -1) | (trits > 1))
    if bad.size:
        raise BadData(
            "tensor.not_ternary",
            f"tensor `{name}` holds {bad.size} values that are no trit, the first at flat "
            f"index {int(bad[0])}",
        )
