"""Weights of every kind: the formula in numpy, and the same bits from XLA."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant import ternary
from bitnet_jax.quant.kinds import (
    KINDS,
    SMALLEST_SCALE,
    kind_codes,
    kind_of,
    kind_scale,
    quantize_weights,
)

INTEGERS = ["int8", "int6", "int4"]
SCALES = [("tensor", 0), ("row", 0), ("group", 8)]
f32 = np.float32


def weights(*shape, seed=0, dtype=np.float32):
    w = np.random.default_rng(seed).standard_normal(shape, np.float32) * f32(0.02)
    return w.astype(dtype)


def by_formula(w, high, scale_kind, group):
    """Scale (bfloat16) and codes, with a loop over what shares a scale."""
    w = w.astype(f32)
    wide = w.reshape(-1, group) if group else w.reshape(1 if scale_kind == "tensor" else len(w), -1)
    scales, codes = [], []
    for row in wide:
        s = max(f32(np.abs(row).max()) * f32(1 / high), f32(2**-24))
        s = f32(s.astype(ml_dtypes.bfloat16))
        scales.append(s)
        codes.append(np.clip(np.rint(row * (f32(1) / s)), -high, high))
    shape = {"tensor": (), "row": (len(w),), "group": (len(w), w.shape[1] // (group or 1))}
    return np.reshape(scales, shape[scale_kind]), np.reshape(codes, w.shape)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize(("scale_kind", "group"), SCALES)
@pytest.mark.parametrize(
    "dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=lambda d: np.dtype(d).name
)
def test_numpy_eager_and_jit_follow_the_formula(kind, scale_kind, group, dtype):
    w = weights(33, 72, dtype=dtype)
    w[3, :8] = 0
    scale, codes = by_formula(w, KINDS[kind].high, scale_kind, group)
    quantized = jax.jit(lambda w: quantize_weights(w, kind, scale_kind, group))
    for found in (
        quantize_weights(w, kind, scale_kind, group),
        quantize_weights(jnp.asarray(w), KINDS[kind], scale_kind, group),
        quantized(w),
    ):
        np.testing.assert_array_equal(np.asarray(found[1]), scale)
        np.testing.assert_array_equal(np.asarray(found[0]), codes)
        assert found[0].dtype == np.int8


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
def test_other_dtypes_of_scale_have_the_same_bits_under_jit(kind, scale_dtype):
    # At 1e-3 the scales of int8 are subnormal in float16.
    for size in (1.0, 1e-3):
        w = weights(40, 64) * f32(size)
        codes, scale = quantize_weights(w, kind, "row", scale_dtype=scale_dtype)
        found = jax.jit(lambda w: quantize_weights(w, kind, "row", scale_dtype=scale_dtype))(w)
        np.testing.assert_array_equal(np.asarray(found[0]), codes)
        np.testing.assert_array_equal(np.asarray(found[1]), scale)
        if scale_dtype == "float16":
            np.testing.assert_array_equal(scale.astype(np.float16).astype(f32), scale)


@pytest.mark.parametrize("scale_kind", ["tensor", "row", "group"])
def test_ternary_is_ternarize(scale_kind):
    w = weights(20, 48)
    for found, want in zip(
        quantize_weights(w, "ternary", scale_kind, 16),
        ternary.ternarize(w, scale_kind, 16),
        strict=True,
    ):
        np.testing.assert_array_equal(found, want)
    scale = ternary.absmean_scale(w, scale_kind, 16)
    np.testing.assert_array_equal(kind_scale(w, "ternary", scale_kind, 16), scale)
    np.testing.assert_array_equal(
        kind_codes(w, scale, "ternary", scale_kind, 16), ternary.trits_of(w, scale, scale_kind, 16)
    )


@pytest.mark.parametrize("kind", INTEGERS)
def test_codes_are_symmetric_reach_their_ends_and_err_by_half_a_step(kind):
    w = weights(50, 60)
    codes, scale = quantize_weights(w, kind, "row")
    high = KINDS[kind].high
    assert codes.min() >= -high and (np.abs(codes).max(axis=1) == high).all()
    negative, same = quantize_weights(-w, kind, "row")
    np.testing.assert_array_equal(negative, -codes)
    np.testing.assert_array_equal(same, scale)
    # The scale is rounded to 8 bits, so the largest weight may be up to 127.5 of it.
    assert (np.abs(w - codes * scale[:, None]) <= scale[:, None] * 0.501).all()


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("scale_dtype", ["bfloat16", "float16", "float32"])
def test_zero_weights_have_the_smallest_scale_in_every_dtype(kind, scale_dtype):
    zeros = np.zeros((3, 4), np.float32)
    for w in (zeros, jnp.asarray(zeros)):
        codes, scale = quantize_weights(w, kind, "row", scale_dtype=scale_dtype)
        np.testing.assert_array_equal(np.asarray(scale), np.full(3, SMALLEST_SCALE))
        assert not np.asarray(codes).any()


def test_a_zero_matrix_of_trits_with_float16_scales_has_a_scale():
    # XLA's reduce_precision sends float16's subnormal numbers, 1e-5 among them, to zero.
    w = np.zeros((3, 4), np.float32)
    want = ternary.absmean_scale(w, scale_dtype="float16")
    found = jax.jit(lambda w: ternary.absmean_scale(w, scale_dtype="float16"))(w)
    assert float(found) == float(want) > 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale_kind", "group"), SCALES)
def test_stacked_weights_are_quantized_one_by_one(kind, scale_kind, group):
    w = weights(2, 3, 10, 16)
    codes, scale = quantize_weights(w, kind, scale_kind, group)
    mapped = jax.vmap(jax.vmap(lambda w: quantize_weights(w, kind, scale_kind, group)))(w)
    for i in range(2):
        for j in range(3):
            one = quantize_weights(w[i, j], kind, scale_kind, group)
            np.testing.assert_array_equal(codes[i, j], one[0])
            np.testing.assert_array_equal(scale[i, j], one[1])
            np.testing.assert_array_equal(np.asarray(mapped[0][i, j]), one[0])
            np.testing.assert_array_equal(np.asarray(mapped[1][i, j]), one[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 8), (4, 0), (0, 3, 8)], ids=str)
def test_axes_of_size_zero(kind, shape):
    for w in (np.zeros(shape, np.float32), jnp.zeros(shape)):
        for scale_kind in ("tensor", "row"):
            codes, scale = quantize_weights(w, kind, scale_kind)
            assert codes.shape == shape
            assert scale.shape == (shape[:-2] if scale_kind == "tensor" else shape[:-1])


def test_what_is_unknown_is_refused_by_name():
    w = weights(4, 12)
    bad = {
        "quant.kind": lambda: kind_of("int7"),
        "quant.scale_kind": lambda: kind_scale(w, "int8", "col"),
        "quant.scale_dtype": lambda: kind_scale(w, "int8", scale_dtype="f8"),
        "quant.group_size": lambda: kind_scale(w, "int8", "group", 5),
    }
    for code, call in bad.items():
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code
