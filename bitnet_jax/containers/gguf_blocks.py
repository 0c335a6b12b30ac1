"""Float blocks of GGUF to float32 and back: Q8_0, Q6_K, Q4_0, and the plain floats.

Decoding gives what llama.cpp computes with; encoding, where there is one here, gives the bytes
of `gguf`'s reference in numpy. Q6_K is read only: its encoder searches for scales and lives in
llama.cpp's C code alone. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

# Of a stored type that is a plain float: numpy's.
FLOATS: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Codec:
    """One type: bytes to float32 [..., in]; float32 [..., in] to bytes, where we can."""

    decode: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray] | None = None


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 in bytes `at`, `at`+1 of each block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


# -------------------------------------------------------------------------------- Q8_0
def _decode_q8(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    blocks = data.reshape(-1, 34)
    return (blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks, 0)).reshape(shape)


def _encode_q8(values: np.ndarray) -> np.ndarray:
    blocks = values.astype(np.float32).reshape(-1, 32)
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    codes = _half_away(blocks * _inverse(d)).astype(np.int8)
    return np.concatenate([d.astype("<f2").view(np.uint8), codes.view(np.uint8)], axis=1)


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _half_away(x: np.ndarray) -> np.ndarray:
    """C's roundf: halves away from zero."""
    size = np.abs(x)
    whole = np.floor(size)
    return np.sign(x) * (whole + np.floor(2 * (size - whole)))


# -------------------------------------------------------------------------------- Q4_0
def _decode_q4(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    blocks = data.reshape(-1, 18)
    body = blocks[:, 2:]
    codes = np.concatenate([body & np.uint8(15), body >> np.uint8(4)], axis=1)
    return ((codes.astype(np.float32) - 8) * _half(blocks, 0)).reshape(shape)


def _encode_q4(values: np.ndarray) -> np.ndarray:
    blocks = values.astype(np.float32).reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    codes = np.trunc(blocks * _inverse(d) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    packed = codes[:, :16] | codes[:, 16:] << np.uint8(4)
    return np.concatenate([d.astype("<f2").view(np.uint8), packed], axis=1)


# -------------------------------------------------------------------------------- Q6_K
def _decode_q6(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """ql[128], qh[64], 16 int8 scales of 16 elements each, d float16: d * scale * (code - 32)."""
    blocks = data.reshape(-1, 210)
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([[0], [4]], np.uint8)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8)
    codes = (low & np.uint8(15)).reshape(-1, 8, 32) | (high & np.uint8(3)).reshape(
        -1, 8, 32
    ) << np.uint8(4)
    scale = blocks[:, 192:208].view(np.int8).astype(np.float32) * _half(blocks, 208)
    values = codes.reshape(-1, 16, 16).astype(np.float32) - 32
    return (scale[:, :, None] * values).reshape(shape)


def _quietly(decode: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]) -> Callable:
    """A damaged scale may be infinite: what comes of it is looked at where values are."""

    def decoded(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            return decode(data, shape)

    return decoded


def _plain(dtype: np.dtype) -> Codec:
    return Codec(
        lambda data, shape: data.view(dtype).reshape(shape).astype(np.float32),
        lambda values: values.astype(dtype),
    )


CODECS: dict[str, Codec] = {
    **{name: _plain(dtype) for name, dtype in FLOATS.items()},
    "Q8_0": Codec(_quietly(_decode_q8), _encode_q8),
    "Q4_0": Codec(_quietly(_decode_q4), _encode_q4),
    "Q6_K": Codec(_quietly(_decode_q6)),
}
