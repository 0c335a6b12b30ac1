"""The layouts of integer codes, bit by bit, and the tensor that carries each kind."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.quant.kinds import KINDS, quantize_weights
from bitnet_jax.quant.layouts import LAYOUT_OF, LAYOUTS, layout_of, pack_codes, unpack_codes
from bitnet_jax.quant.tensor import from_codes

KIND_NAMES = list(LAYOUT_OF)
SHAPES = [(1, 1), (5, 7), (16, 16), (17, 33), (2, 3, 6, 9), (3, 0), (0, 5)]


def codes_of(kind, shape, seed=0):
    high = KINDS[kind].high
    return np.random.default_rng(seed).integers(-high, high + 1, shape).astype(np.int8)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numpy_and_jax_pack_the_same_bytes_and_unpack_them(kind, shape):
    codes, layout = codes_of(kind, shape), LAYOUT_OF[kind]
    packed = pack_codes(codes, layout)
    assert packed.shape == (*shape[:-2], *LAYOUTS[layout].shape(*shape[-2:]))
    assert str(packed.dtype) == LAYOUTS[layout].dtype
    jitted = jax.jit(lambda codes: pack_codes(codes, layout))(codes)
    np.testing.assert_array_equal(np.asarray(jitted), packed)
    np.testing.assert_array_equal(unpack_codes(packed, layout, *shape[-2:]), codes)
    unpacked = jax.jit(lambda packed: unpack_codes(packed, layout, *shape[-2:]))(packed)
    assert unpacked.dtype == jnp.int8
    np.testing.assert_array_equal(np.asarray(unpacked), codes)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KIND_NAMES),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 40)),
    seed=st.integers(0, 2**16),
)
def test_round_trip_of_any_shape(kind, shape, seed):
    codes, layout = codes_of(kind, shape, seed), LAYOUT_OF[kind]
    packed = pack_codes(codes, layout)
    np.testing.assert_array_equal(unpack_codes(packed, layout, *shape[1:]), codes)
    # Whole rows, and columns from a multiple of the step on, are valid by themselves.
    step = LAYOUTS[layout].step
    half = shape[2] // 2 // step * step
    for part in (codes[..., :half], codes[..., half:], codes[:, :16]):
        alone = pack_codes(np.ascontiguousarray(part), layout)
        np.testing.assert_array_equal(unpack_codes(alone, layout, *part.shape[1:]), part)


@pytest.mark.parametrize(("kind", "bits"), [("int4", 4), ("int6", 6), ("int8", 8)])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 8, 11])
def test_a_row_is_one_little_endian_number_of_bit_fields(kind, bits, columns):
    codes = codes_of(kind, (3, columns))
    packed = pack_codes(codes, LAYOUT_OF[kind])
    for row, found in zip(codes, packed, strict=True):
        number = sum((int(code) & ((1 << bits) - 1)) << (bits * at) for at, code in enumerate(row))
        # What is left of the last byte, or of the last three, is code 0.
        assert int.from_bytes(found.tobytes(), "little") == number


def test_sizes_as_documented():
    sizes = {name: layout.shape(5, 9) for name, layout in LAYOUTS.items()}
    assert sizes == {
        "t2.16x16": (1, 1, 64),
        "t1.16x20": (1, 1, 64),
        "i8.rows": (5, 9),
        "i6.rows": (5, 9),  # three groups of four codes, three bytes each
        "i4.rows": (5, 5),
    }


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_rows_are_taken_without_the_others(kind):
    codes, layout = codes_of(kind, (37, 21)), LAYOUT_OF[kind]
    packed = pack_codes(codes, layout)
    index = np.array([[0, 36, 15], [16, 16, 3]])
    take = LAYOUTS[layout].take
    np.testing.assert_array_equal(take(packed, index, 21), codes[index])
    jitted = jax.jit(lambda packed, index: take(packed, index, 21))(packed, index)
    np.testing.assert_array_equal(np.asarray(jitted), codes[index])


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize(("scale_kind", "group"), [("tensor", 0), ("row", 0), ("group", 4)])
def test_the_tensor_stands_for_its_float_parameter(kind, scale_kind, group):
    w = np.random.default_rng(0).standard_normal((2, 6, 8), np.float32)
    codes, scale = quantize_weights(w, kind, scale_kind, group)
    tensor = from_codes(codes, scale, kind=kind, scale_kind=scale_kind, group_size=group)
    tensor.verify("w")
    np.testing.assert_array_equal(tensor.codes_matrix(), codes)
    wide = {
        "tensor": lambda: scale[:, None, None],
        "row": lambda: scale[..., None],
        "group": lambda: np.repeat(scale, 4, -1),
    }[scale_kind]()
    np.testing.assert_array_equal(tensor.dequantize(), codes * wide)
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(tensor)))
    assert (again.kind, again.layout) == (kind, LAYOUT_OF[kind])
    assert tensor.nbytes == tensor.codes.nbytes + scale.nbytes
    if kind == "ternary":
        np.testing.assert_array_equal(tensor.trits(), codes)
    else:
        with pytest.raises(UsageError, match=f"kind {kind} has no trits"):
            tensor.trits()


def test_verify_refuses_what_does_not_fit_together():
    tensor = from_codes(codes_of("int4", (6, 8)), np.float32(0.5), kind="int4")
    wrong = {
        "tensor.layout": {"layout": "i4.columns"},
        "tensor.kind": {"kind": "int8"},
        "tensor.codes_shape": {"codes": tensor.codes.astype(np.int8)},
        "tensor.scale_shape": {"scale": np.ones(3, np.float32)},
    }
    for code, change in wrong.items():
        with pytest.raises(BadData, match="`a.b`") as caught:
            replace(tensor, **change).verify("a.b")
        assert caught.value.code == code
    with pytest.raises(BadData, match=r"known: t2.16x16, t1.16x20, i8.rows, i6.rows, i4.rows"):
        replace(tensor, layout="i4.columns").verify("a.b")
    with pytest.raises(BadData) as caught:
        layout_of("t1.6")
    assert caught.value.code == "tensor.layout"
