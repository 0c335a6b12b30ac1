"""The blocks of GGUF: by their formulas, by hand, and byte for byte as `gguf` has them."""

from __future__ import annotations

import numpy as np
import pytest

from bitnet_jax.containers import gguf_ternary as ternary
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf_blocks import CODECS
from bitnet_jax.containers.gguf_types import TYPES
from tests.formats.gguf_models import raw_trits

TRITS = np.random.default_rng(0).integers(-1, 2, (6, 512)).astype(np.int8)
D = np.full((6, 2), 0.37, "<f2")
TQ = {"TQ1_0": (ternary.encode_tq1, ternary.decode_tq1),
      "TQ2_0": (ternary.encode_tq2, ternary.decode_tq2)}  # fmt: skip


def one_trit(at: int) -> np.ndarray:
    """A block of zeros with +1 at `at`."""
    trits = np.zeros((1, 256), np.int8)
    trits[0, at] = 1
    return trits


@pytest.mark.parametrize("name", TQ)
def test_blocks_of_trits_there_and_back(name):
    encode, decode = TQ[name]
    data = encode(TRITS, D)
    assert data.nbytes == TYPES[name].size(TRITS.shape)
    trits, d = decode(data.reshape(-1), TRITS.shape, "t", "here")
    np.testing.assert_array_equal(trits, TRITS)
    np.testing.assert_array_equal(d, D.astype(np.float32))
    again, scale = raw_trits(TYPES[name].id, TRITS.shape, data.reshape(-1))
    np.testing.assert_array_equal(again, TRITS)
    assert scale == np.float32(D[0, 0])


# (element, byte, the byte of that element's +1 among zeros)
@pytest.mark.parametrize("at,byte,value", [(0, 0, 0x56), (32, 0, 0x59), (96, 0, 0x95),
                                           (128, 32, 0x56), (255, 63, 0x95)])  # fmt: skip
def test_where_a_trit_stands_in_tq2(at, byte, value):
    data = ternary.encode_tq2(one_trit(at), np.ones((1, 1), "<f2")).reshape(-1)
    assert data[byte] == value and data[64:].tobytes() == b"\x00\x3c"
    assert (np.delete(data[:64], byte) == 0x55).all()


@pytest.mark.parametrize("at,byte,power", [(0, 0, 81), (128, 0, 1), (160, 32, 81), (239, 47, 1),
                                           (240, 48, 81), (252, 48, 3)])  # fmt: skip
def test_where_a_trit_stands_in_tq1(at, byte, power):
    data = ternary.encode_tq1(one_trit(at), np.ones((1, 1), "<f2")).reshape(-1)
    zero = 121 if byte < 48 else 120  # 11111 in base 3, or 11110
    assert data[byte] == -(-(zero + power) * 256 // 243)


@pytest.mark.parametrize("at,byte,value", [(0, 0, 0x95), (32, 0, 0x65), (96, 0, 0x56),
                                           (128, 32, 0x95)])  # fmt: skip
def test_where_a_trit_stands_in_i2s(at, byte, value):
    data = ternary.encode_i2s(one_trit(at), np.float32(0.75))
    assert data[byte] == value and (np.delete(data[:64], byte) == 0x55).all()
    assert data[64:].tobytes() == np.array([0.75], "<f4").tobytes() + bytes(28)


def test_i2s_there_and_back():
    trits, scale = ternary.decode_i2s(
        ternary.encode_i2s(TRITS, np.float32(0.37)), TRITS.shape, "t", "here"
    )
    np.testing.assert_array_equal(trits, TRITS)
    assert scale == np.float32(0.37)


def test_a_code_that_is_no_trit_is_refused():
    for name, (encode, decode) in TQ.items():
        data = encode(TRITS, D).reshape(-1)
        data[1] = 0xFF if name == "TQ2_0" else 0x01  # 3 in one, a fraction that none writes in two
        with pytest.raises(TensorError, match="no trit") as caught:
            decode(data, TRITS.shape, "t", "here")
        assert caught.value.code == "tensor.not_ternary"
    last = ternary.encode_tq1(TRITS, D).reshape(-1)
    last[51] += 1  # the next fifth trit, which bytes 48-51 have not
    with pytest.raises(TensorError, match="no trit"):
        ternary.decode_tq1(last, TRITS.shape, "t", "here")
    data = ternary.encode_i2s(TRITS, np.float32(1))
    data[5] |= 0x03
    with pytest.raises(TensorError, match="no trit"):
        ternary.decode_i2s(data, TRITS.shape, "t", "here")


def test_a_trailer_of_another_form_is_refused():
    data = ternary.encode_i2s(TRITS, np.float32(1))
    data[-1] = 1
    with pytest.raises(TensorError, match="28 zeros") as caught:
        ternary.decode_i2s(data, TRITS.shape, "t", "here")
    assert caught.value.code == "gguf.i2s_trailer"


def test_floats_in_blocks():
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    x[0, :32] = 0
    for name, worst in (("F32", 0), ("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 2e-2), ("Q4_0", 0.4)):
        data = np.ascontiguousarray(CODECS[name].encode(x)).reshape(-1).view(np.uint8)
        assert data.size == TYPES[name].size(x.shape)
        assert np.abs(CODECS[name].decode(data, x.shape) - x).max() <= worst


@pytest.mark.heavy
def test_every_block_is_byte_for_byte_that_of_the_gguf_package():
    from gguf import GGMLQuantizationType as Kind
    from gguf.quants import dequantize, quantize

    rng = np.random.default_rng(2)
    w = TRITS.astype(np.float32) * np.float32(D[0, 0])
    for name, (encode, _) in TQ.items():
        np.testing.assert_array_equal(encode(TRITS, D).reshape(6, -1), quantize(w, Kind[name]))
    x = rng.standard_normal((64, 512)).astype(np.float32) * np.exp(rng.standard_normal((64, 1)))
    x[3] = 0
    x[4, 5] = 1e4
    x = x.astype(np.float32)
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
        ours = np.ascontiguousarray(CODECS[name].encode(x)).reshape(-1).view(np.uint8)
        theirs = quantize(x, Kind[name])
        np.testing.assert_array_equal(ours, theirs.reshape(-1).view(np.uint8))
        np.testing.assert_array_equal(
            CODECS[name].decode(ours, x.shape), dequantize(theirs, Kind[name])
        )
    raw = rng.integers(0, 256, (8, 420)).astype(np.uint8)
    raw.reshape(-1, 210)[:, 208:] = np.array([0.01], "<f2").view(np.uint8)
    np.testing.assert_array_equal(
        CODECS["Q6_K"].decode(raw.reshape(-1), (8, 512)), dequantize(raw, Kind.Q6_K)
    )
