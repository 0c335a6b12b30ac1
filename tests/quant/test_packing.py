"""The packed layout, byte for byte, and the tensor that carries it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.quant.packing import check_trits, illegal_codes, pack_trits, unpack_trits
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.quant.ternary import from_trits


def random_trits(*shape, seed=0):
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.int8)


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (17, 33), (5, 160), (2, 3, 40, 24)])
def test_round_trip(shape):
    trits = random_trits(*shape)
    codes = pack_trits(trits)
    assert codes.shape == (*shape[:-2], -(-shape[-2] // 16), -(-shape[-1] // 16), 64)
    np.testing.assert_array_equal(unpack_trits(codes, *shape[-2:]), trits)
    np.testing.assert_array_equal(jax.jit(pack_trits)(jnp.asarray(trits)), codes)
    np.testing.assert_array_equal(unpack_trits(jnp.asarray(codes), *shape[-2:]), trits)


def test_every_trit_stands_where_the_layout_says():
    trits = random_trits(32, 48)
    codes = pack_trits(trits)
    for row in range(32):
        for column in range(48):
            j, p = divmod(column % 16, 4)
            byte = codes[row // 16, column // 16, 4 * (row % 16) + p]
            assert (byte >> (2 * j)) & 3 == trits[row, column] + 1


def test_padding_is_the_zero_trit():
    codes = pack_trits(random_trits(3, 5))
    whole = unpack_trits(codes, 16, 16)
    assert not whole[3:].any() and not whole[:, 5:].any()


def test_blocks_are_valid_by_themselves():
    trits = random_trits(48, 64)
    codes = pack_trits(trits)
    np.testing.assert_array_equal(unpack_trits(codes[1:2, 2:4], 16, 32), trits[16:32, 32:64])


def test_the_illegal_code_is_found():
    codes = pack_trits(random_trits(16, 16))
    assert illegal_codes(codes).size == 0
    codes[0, 0, 7] |= 0b1100
    assert illegal_codes(codes).tolist() == [7]


def test_values_that_are_no_trits_are_named():
    with pytest.raises(BadData, match=r"`w` holds 1 values .* index 3"):
        check_trits(np.array([0, 1, -1, 2], np.int8), "w")


def test_the_tensor_stands_for_its_float_parameter():
    trits = random_trits(2, 6, 8)
    scale = np.array([0.5, 2.0], np.float32)
    tensor = from_trits(trits, scale)
    tensor.verify("w")
    np.testing.assert_array_equal(tensor.dequantize(), trits * scale[:, None, None])
    assert (tensor.out_features, tensor.in_features, tensor.stack_shape) == (6, 8, (2,))
    leaves, tree = jax.tree.flatten(tensor)
    assert len(leaves) == 2 and isinstance(tree.unflatten(leaves), QuantTensor)


def test_a_parameter_stored_transposed_comes_back_transposed():
    trits = random_trits(6, 8)
    fields = vars(from_trits(trits, np.float32(0.5))) | {
        "shape": (8, 6),
        "out_axes": (1,),
        "in_axes": (0,),
    }
    np.testing.assert_array_equal(QuantTensor(**fields).dequantize(), trits.T * 0.5)


@pytest.mark.parametrize(
    "change", [{"codes": np.zeros((1, 1, 63), np.uint8)}, {"scale": np.ones(3, np.float32)}]
)
def test_wrong_shapes_are_refused(change):
    tensor = from_trits(random_trits(6, 8), np.float32(0.5))
    with pytest.raises(BadData, match="`w` needs"):
        QuantTensor(**{**vars(tensor), **change}).verify("w")
