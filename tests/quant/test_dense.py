"""The layout of five trits to a byte, byte for byte, and its way to two bits and back."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.quant import dense
from bitnet_jax.quant.digest import digest
from bitnet_jax.quant.packing import pack_trits
from bitnet_jax.quant.tensor import from_codes

SHAPES = [(1, 1), (16, 20), (17, 33), (5, 160), (2, 3, 40, 25), (33, 79), (16, 81)]


def random_trits(*shape):
    return np.random.default_rng(0).integers(-1, 2, shape).astype(np.int8)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip(shape):
    trits = random_trits(*shape)
    codes = dense.pack(trits)
    assert codes.shape == (*shape[:-2], -(-shape[-2] // 16), -(-shape[-1] // 20), 64)
    assert codes.flags.c_contiguous and codes.max() <= 242
    np.testing.assert_array_equal(dense.unpack(codes, *shape[-2:]), trits)
    np.testing.assert_array_equal(jax.jit(dense.pack)(jnp.asarray(trits)), codes)
    np.testing.assert_array_equal(dense.unpack(jnp.asarray(codes), *shape[-2:]), trits)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_layouts_hold_the_same_bits_of_codes(shape):
    trits = random_trits(*shape)
    plain, codes = pack_trits(trits), dense.pack(trits)
    np.testing.assert_array_equal(dense.to_plain(codes, shape[-1]), plain)
    np.testing.assert_array_equal(dense.to_plain(jnp.asarray(codes), shape[-1]), plain)
    np.testing.assert_array_equal(dense.of_plain(plain, shape[-1]), codes)
    assert dense.to_plain(codes, shape[-1]).flags.c_contiguous


def test_every_trit_stands_where_the_layout_says():
    trits = random_trits(32, 60)
    codes = dense.pack(trits)
    for row in range(32):
        for column in range(60):
            j, p = divmod(column % 20, 4)
            byte = codes[row // 16, column // 20, 4 * (row % 16) + p]
            assert int(byte) // 3**j % 3 == trits[row, column] + 1


def test_padding_is_the_zero_trit_and_blocks_are_valid_by_themselves():
    codes = dense.pack(random_trits(3, 5))
    whole = dense.unpack(codes, 16, 20)
    assert not whole[3:].any() and not whole[:, 5:].any()
    trits = random_trits(48, 80)
    codes = dense.pack(trits)
    np.testing.assert_array_equal(dense.unpack(codes[1:2, 2:4], 16, 40), trits[16:32, 40:80])


def test_illegal_bytes_are_zeros_in_every_form():
    codes = np.full((1, 1, 64), 243, np.uint8)
    codes[0, 0, 1:] = 255
    for form in (codes, jnp.asarray(codes)):
        assert not np.asarray(dense.unpack(form, 16, 20)).any()
        assert not np.asarray(dense.take(form, np.array([0]), 20)).any()


def test_the_digest_does_not_depend_on_the_layout():
    for inputs in (40, 41):
        trits = random_trits(7, inputs)
        plain, packed = (
            from_codes(trits, np.float32(0.5), layout=layout) for layout in ("t2.16x16", "t1.16x20")
        )
        packed.verify("w")
        assert packed.layout == "t1.16x20" and digest({"w": packed}) == digest({"w": plain})
        np.testing.assert_array_equal(packed.dequantize(), plain.dequantize())


def test_groups_are_whole_lines_in_either_layout():
    trits, scale = random_trits(4, 160), np.ones((4, 2), np.float32)
    good = from_codes(
        trits, scale, scale_kind="group", group_size=80, layout="t1.16x20"
    )  # fmt: skip
    good.verify("w")
    odd = replace(good, group_size=40, scale=np.ones((4, 4), np.float32))
    with pytest.raises(BadData, match="for every 40 inputs; .* a multiple of 80") as caught:
        odd.verify("w")
    assert caught.value.code == "tensor.group_size"
