"""The layout `t1.16x20`: five trits to a byte, 1.6 bits each.

A matrix [out, in] is padded with zero trits to multiples of 16 rows and 20 columns; a block
of 16 rows by 20 columns is one 64-byte line. Byte ``4*r + p`` of a line is the number
``c0 + 3*c1 + 9*c2 + 27*c3 + 81*c4``, where ``cj`` is the code (trit + 1) of row ``r`` and
column ``4*j + p`` of the block. Bytes above 242 are illegal. So digit ``j`` of all bytes is
16 rows of 4 consecutive columns, as bit pair ``j`` is in `t2.16x16` (`packing.py`), and
four lines hold the 80 columns of five lines there, place by place: 40 bits.

A group of inputs with a scale of its own must be a multiple of those 80, so that it is whole
lines in either layout. The same code serves numpy and JAX arrays. Knows nothing of scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitnet_jax.quant.absmean import namespace
from bitnet_jax.quant.packing import BLOCK, LINE, blocks, pack_trits, unpack_trits
from bitnet_jax.quant.packing import LAYOUT as PLAIN_LAYOUT

LAYOUT = "t1.16x20"
COLUMNS = 20
# Columns that are whole lines in both layouts, and how many lines.
TURN, DENSE_LINES, PLAIN_LINES = 80, 4, 5
LARGEST = 3**5 - 1
_PLAIN_ZEROS, _DENSE_ZEROS = np.uint8(0x55), np.uint8(LARGEST // 2)  # lines of trit 0
_POWERS = tuple(3**j for j in range(5))


def codes_shape(out_features: int, in_features: int) -> tuple[int, int, int]:
    """Shape of the packed codes of one [out, in] matrix."""
    return blocks(out_features), -(-in_features // COLUMNS), LINE


def pack(trits: Any) -> Any:
    """Packs int8 trits [..., out, in] into uint8 codes [..., OB, DB, 64].

    Values outside {-1, 0, 1} are the caller's bug and give unspecified codes.
    """
    return of_plain(pack_trits(trits), trits.shape[-1])


def unpack(codes: Any, out_features: int, in_features: int) -> Any:
    """Inverse of `pack`: int8 [..., out, in]. An illegal byte comes out as five zeros."""
    if namespace(codes) is np:
        return unpack_trits(to_plain(codes, in_features), out_features, in_features)
    *lead, ob, db, _ = codes.shape
    lines = _digits(codes.reshape(*lead, ob, db, BLOCK, 4), axis=-2)
    trits = namespace(codes).moveaxis(lines, -4, -3)  # [..., ob, r, db, j, p]
    trits = trits.reshape(*lead, ob * BLOCK, db * COLUMNS)
    return trits[..., :out_features, :in_features]


def take(codes: Any, index: Any, inputs: int) -> Any:
    """Rows of the codes [OB, DB, 64] of one matrix: int8 [*index, in]."""
    ob, db, _ = codes.shape
    lines = codes.reshape(ob, db, BLOCK, 4)
    row = lines[index // BLOCK, :, index % BLOCK]  # [*index, DB, p]
    return _digits(row, axis=-2).reshape(*row.shape[:-2], db * COLUMNS)[..., :inputs]


def _digits(codes: Any, axis: int) -> Any:
    """The five trits of each byte, along a new axis."""
    xp = namespace(codes)
    legal = xp.where(codes > np.uint8(LARGEST), _DENSE_ZEROS, codes)
    digits = [legal // np.uint8(power) % np.uint8(3) for power in _POWERS]
    return xp.stack(digits, axis=axis).astype(np.int8) - np.int8(1)


# ------------------------------------------------------------- from and to t2.16x16
def _codes_of_bytes() -> np.ndarray:
    """By byte: its five codes, two bits each."""
    value = np.arange(256)
    codes = sum((value // power % 3) << (2 * j) for j, power in enumerate(_POWERS))
    return np.where(value > LARGEST, 0x155, codes).astype(np.uint16)


_CODES = _codes_of_bytes()
_BYTES = np.full(1024, 255, np.uint8)  # a code of 3 becomes an illegal byte
_BYTES[_CODES[: LARGEST + 1]] = np.arange(LARGEST + 1)


def of_plain(codes: Any, in_features: int) -> Any:
    """Codes of `t2.16x16` [..., IB, 64] as codes of this layout [..., DB, 64]."""
    xp = namespace(codes)
    b = [part.astype(np.uint16) for part in _parts(codes, PLAIN_LINES, _PLAIN_ZEROS)]
    ten = (
        b[0] | (b[1] & 3) << 8,
        b[1] >> 2 | (b[2] & 15) << 6,
        b[2] >> 4 | (b[3] & 63) << 4,
        b[3] >> 6 | b[4] << 2,
    )
    if xp is np:
        lines = [_BYTES[codes] for codes in ten]
    else:
        pairs = [[codes >> 2 * j & 3 for j in range(5)] for codes in ten]
        lines = [
            sum(pair * power for pair, power in zip(row, _POWERS, strict=True)).astype(np.uint8)
            for row in pairs
        ]
    return _joined(lines, codes_shape(1, in_features)[1])


def to_plain(codes: Any, in_features: int) -> Any:
    """Codes of this layout [..., DB, 64] as codes of `t2.16x16` [..., IB, 64].

    An illegal byte becomes zeros.
    """
    xp = namespace(codes)
    parts = _parts(codes, DENSE_LINES, _DENSE_ZEROS)
    if xp is np:
        ten = [_CODES[part] for part in parts]
    else:
        ten = []
        for part in parts:
            digits = (_digits(part, axis=0) + np.int8(1)).astype(np.uint16)
            ten.append(sum(digits[j] << 2 * j for j in range(5)))
    bits = (
        ten[0],
        ten[0] >> 8 | ten[1] << 2,
        ten[1] >> 6 | ten[2] << 4,
        ten[2] >> 4 | ten[3] << 6,
        ten[3] >> 2,
    )
    return _joined([byte.astype(np.uint8) for byte in bits], blocks(in_features))


def as_plain(codes: Any, layout: str, in_features: int) -> Any:
    """Ternary codes of either layout as codes of `t2.16x16`."""
    return codes if layout == PLAIN_LAYOUT else to_plain(codes, in_features)


def _parts(codes: Any, lines: int, zeros: np.uint8) -> list[Any]:
    """[..., n, 64] as `lines` arrays [..., ceil(n/lines), 64], every so many-th line each."""
    xp = namespace(codes)
    pad = [(0, 0)] * (codes.ndim - 2) + [(0, -codes.shape[-2] % lines), (0, 0)]
    padded = xp.pad(codes, pad, constant_values=zeros)
    return [padded[..., at::lines, :] for at in range(lines)]


def _joined(parts: list[Any], count: int) -> Any:
    """The first `count` lines of what `_parts` took apart, in one piece."""
    xp = namespace(parts[0])
    stacked = xp.stack(parts, axis=-2)  # [..., n, lines, 64]
    whole = stacked.reshape(*stacked.shape[:-3], -1, LINE)[..., :count, :]
    return np.ascontiguousarray(whole) if xp is np else whole
