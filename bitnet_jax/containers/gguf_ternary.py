"""Ternary blocks of GGUF: TQ1_0, TQ2_0 (llama.cpp) and I2_S (bitnet.cpp, x86) to trits and back.

TQ1_0, 54 bytes for 256 consecutive elements of a row: five trits to a byte as the fraction
``v/243`` of 256, ``v = sum code_n 3^(4-n)``, rounded up. Bytes 0-31: byte p has elements
``n*32+p`` (n = 0..4); 32-47: byte 32+p has ``160+n*16+p``; 48-51: byte 48+p has ``240+n*4+p``
(n = 0..3, the last trit 0); then the scale d, float16.

TQ2_0, 66 bytes for 256: byte ``h*32+p`` has in bits 2j, 2j+1 the code of element
``h*128+j*32+p`` (h = 0..1, j = 0..3); then d, float16.

I2_S: the whole tensor flat, row-major; of each 128 elements 32 bytes, byte p with the code of
element p in bits 6-7, of 32+p in 4-5, of 64+p in 2-3, of 96+p in 0-1; after the last block the
scale, float32, and 28 zero bytes. Other layouts have been written under the same number: see
`formats/gguf_i2s.py`.

A code is trit + 1. Sources: ggml-quants.c and gguf-py's quants.py (TQ), bitnet.cpp's
ggml-bitnet-mad.cpp and convert-hf-to-gguf-bitnet.py (I2_S). Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bitnet_jax.containers.errors import TensorError

BLOCK = 256
I2S_BLOCK = 128
I2S_TAIL = 32
_POWERS = np.array([81, 27, 9, 3, 1], np.uint8)
# (first byte, bytes, first element, trits to a byte) of the three runs of a TQ1_0 block
_RUNS = ((0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4))


# ------------------------------------------------------------------------------- TQ1_0
def _tq1_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """byte -> its five trits; v -> byte; byte -> it is one that an encoder writes."""
    byte_of = ((np.arange(243, dtype=np.uint16) * 256 + 242) // 243).astype(np.uint8)
    every = np.arange(256, dtype=np.uint8)
    digits = [((every * np.uint8(3**n)).astype(np.uint16) * 3 >> 8) for n in range(5)]
    trits = np.stack(digits, axis=-1).astype(np.int8) - np.int8(1)
    written = np.zeros(256, np.bool_)
    written[byte_of] = True
    return trits, byte_of, written


_TQ1_TRITS, _TQ1_BYTE, _TQ1_WRITTEN = _tq1_tables()


def encode_tq1(trits: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Trits int8 [out, in], d float16 [out, in/256] to bytes uint8 [out, in/256, 54]."""
    out, width = trits.shape
    codes = (trits + 1).astype(np.uint8).reshape(out, width // BLOCK, BLOCK)
    packed = np.empty((out, width // BLOCK, 54), np.uint8)
    for at, count, first, each in _RUNS:
        run = codes[..., first : first + count * each].reshape(*codes.shape[:2], each, count)
        value = (run * _POWERS[:each, None]).sum(axis=-2, dtype=np.uint8)
        packed[..., at : at + count] = _TQ1_BYTE[value]
    packed[..., 52:] = d.astype("<f2").view(np.uint8).reshape(*codes.shape[:2], 2)
    return packed


def decode_tq1(data: np.ndarray, shape: tuple[int, int], name: str, where: str):
    """Bytes to trits int8 [out, in] and d float32 [out, in/256].

    Raises:
      BadData: a byte that no encoder writes (``tensor.not_ternary``).
    """
    out, width = shape
    blocks = data.reshape(out, width // BLOCK, 54)
    body = blocks[..., :52]
    trits = np.empty((out, width // BLOCK, BLOCK), np.int8)
    bad = ~_TQ1_WRITTEN[body]
    # Bytes 48-51 hold four trits: a fifth that is not 0 is a byte no encoder writes.
    bad[..., 48:] |= _TQ1_TRITS[body[..., 48:], 4] != -1
    if bad.any():
        raise _not_ternary(name, where, int(np.flatnonzero(bad)[0]) // 52, int(bad.sum()))
    for at, count, first, each in _RUNS:
        run = _TQ1_TRITS[body[..., at : at + count], :each]  # [..., count, each]
        flat = np.swapaxes(run, -1, -2).reshape(*run.shape[:2], count * each)
        trits[..., first : first + count * each] = flat
    d = np.ascontiguousarray(blocks[..., 52:]).view("<f2")[..., 0].astype(np.float32)
    return trits.reshape(out, width), d


# ------------------------------------------------------------------------------- TQ2_0
def encode_tq2(trits: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Trits int8 [out, in], d float16 [out, in/256] to bytes uint8 [out, in/256, 66]."""
    out, width = trits.shape
    codes = (trits + 1).astype(np.uint8).reshape(out, width // BLOCK, 2, 4, 32)
    body = codes[..., 0, :] | codes[..., 1, :] << 2 | codes[..., 2, :] << 4 | codes[..., 3, :] << 6
    packed = np.empty((out, width // BLOCK, 66), np.uint8)
    packed[..., :64] = body.reshape(out, width // BLOCK, 64)
    packed[..., 64:] = d.astype("<f2").view(np.uint8).reshape(out, width // BLOCK, 2)
    return packed


def decode_tq2(data: np.ndarray, shape: tuple[int, int], name: str, where: str):
    """Bytes to trits int8 [out, in] and d float32 [out, in/256].

    Raises:
      BadData: a code is 3 (``tensor.not_ternary``).
    """
    out, width = shape
    blocks = data.reshape(out, width // BLOCK, 66)
    body = blocks[..., :64].reshape(out, width // BLOCK, 2, 1, 32)
    _check_codes(body, name, where, 64)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    trits = ((body >> shifts) & np.uint8(3)).astype(np.int8) - np.int8(1)
    d = np.ascontiguousarray(blocks[..., 64:]).view("<f2")[..., 0].astype(np.float32)
    return trits.reshape(out, width), d


# -------------------------------------------------------------------------------- I2_S
def encode_i2s(trits: np.ndarray, scale: np.float32) -> np.ndarray:
    """Trits int8 [out, in] and the scale to bytes uint8 [out*in/4 + 32]."""
    codes = (trits + 1).astype(np.uint8).reshape(-1, 4, 32)
    body = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
    tail = np.zeros(I2S_TAIL, np.uint8)
    tail[:4] = np.array([scale], "<f4").view(np.uint8)
    return np.concatenate([body.reshape(-1), tail])


def decode_i2s(data: np.ndarray, shape: tuple[int, int], name: str, where: str):
    """Bytes to trits int8 [out, in] and the scale, float32.

    Raises:
      BadData: a code is 3 (``tensor.not_ternary``), or the last 32 bytes are no scale and
        zeros (``gguf.i2s_trailer``).
    """
    body, tail = data[:-I2S_TAIL].reshape(-1, 1, 32), data[-I2S_TAIL:]
    _check_codes(body, name, where, 32)
    if tail[4:].any():
        raise TensorError(
            "gguf.i2s_trailer",
            f"{where}, tensor `{name}`: its last 32 bytes are not a scale and 28 zeros, as "
            "bitnet.cpp's converter writes them",
            "another layout stands under the number of I2_S: convert again from the original",
            tensor=name,
        )
    shifts = np.array([6, 4, 2, 0], np.uint8).reshape(4, 1)
    trits = ((body >> shifts) & np.uint8(3)).astype(np.int8) - np.int8(1)
    return trits.reshape(shape), tail[:4].copy().view("<f4")[0]


# ------------------------------------------------------------------------------- checks
def _check_codes(body: np.ndarray, name: str, where: str, block: int) -> None:
    both = body & (body >> np.uint8(1)) & np.uint8(0x55)
    if both.any():
        raise _not_ternary(
            name, where, int(np.flatnonzero(both)[0]) // block, int(np.count_nonzero(both))
        )


def _not_ternary(name: str, where: str, block: int, count: int) -> TensorError:
    return TensorError(
        "tensor.not_ternary",
        f"{where}, tensor `{name}`: {count} bytes hold what is no trit, the first in block {block}",
        "the file is damaged, or another layout stands under this type's number",
        tensor=name,
    )


# Types of blocks with a scale each: how they are written, and read.
BLOCKED: dict[str, tuple[Callable, Callable]] = {
    "TQ1_0": (encode_tq1, decode_tq1),
    "TQ2_0": (encode_tq2, decode_tq2),
}
