"""Each row of the table of activations, against its formula written out here in numpy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.absmean import tree_sum
from bitnet_jax.quant.activations import (
    ACTIVATIONS,
    Activation,
    activation_scale,
    quantize,
    quantize_activations,
    statistic,
)

ROWS = [Activation(*key) for key in ACTIVATIONS]
DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16]
f32 = np.float32


def by_formula(x, activation):
    x = x.astype(f32)
    if activation.statistic == "absmean":
        a = (tree_sum(np.abs(x)) * f32(1 / x.shape[-1]))[..., None]
        r = f32(np.sqrt(7)) / (a + f32(1e-5))
        return np.clip(np.rint(x * r), -8, 7), a, a * f32(1 / np.sqrt(7))
    high = {8: 127, 4: 7}[activation.bits]
    a = np.maximum(np.abs(x).max(-1, keepdims=True), f32(1e-5))
    q = np.clip(np.rint(x * (f32(high) / a)), -high - 1, high)
    return q, a, a * f32(1 / high)


def tokens(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def check(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("activation", ROWS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_numpy_eager_and_jit_follow_the_formula(activation, dtype):
    x = tokens(9, 129, dtype=dtype)
    x[1] = 0
    x[2] *= np.asarray(1e-4, dtype)
    x[3] *= np.asarray(1e4, dtype)
    want = by_formula(x, activation)
    found = quantize(x, activation)
    assert (found[0].dtype, found[1].shape, found[2].dtype) == (np.int8, (9, 1), np.float32)
    check(found, want)
    check(quantize(jnp.asarray(x), activation), want)
    check(jax.jit(lambda x: quantize(x, activation))(x), want)


@pytest.mark.parametrize("activation", ROWS, ids=str)
def test_ten_thousand_tokens_have_the_same_bits_under_jit(activation):
    # A mean is a product to which 1e-5 is added: contracted, one in thousands would differ.
    x = tokens(10_000, 24) * np.float32(1e-4)
    check(jax.jit(lambda x: quantize(x, activation))(x), by_formula(x, activation))


@pytest.mark.parametrize("activation", ROWS, ids=str)
def test_what_surrounds_it_does_not_matter(activation):
    x = tokens(64, 40)
    want = by_formula(x, activation)

    def scanned(x):
        return jax.lax.scan(lambda _, row: (None, quantize(row, activation)), None, x)[1]

    check(jax.jit(jax.vmap(lambda row: quantize(row, activation)))(x), want)
    check(jax.jit(scanned)(x), want)

    @jax.jit
    def dequantized(x):
        q, _, scale = quantize(x, activation)
        return q.astype(jnp.float32) * scale

    np.testing.assert_array_equal(dequantized(x), want[0] * want[2])


def test_the_mean_of_the_paper():
    # β = 1: √7·x / (1 + 1e-5) is 2.65 for ±1, and values far out are clamped.
    x = np.array([[1, -1, 1, -1], [4, 0, 0, 0], [-4, 0, 0, 0]], np.float32)
    q, a, scale = quantize(x, Activation(4, "absmean"))
    np.testing.assert_array_equal(q, [[3, -3, 3, -3], [7, 0, 0, 0], [-8, 0, 0, 0]])
    np.testing.assert_array_equal(a, np.ones((3, 1), np.float32))
    np.testing.assert_allclose(scale, 1 / np.sqrt(7), rtol=1e-7)


@pytest.mark.parametrize("activation", ROWS, ids=str)
def test_a_token_in_two_shards_with_the_statistic_of_the_whole(activation):
    x = tokens(5, 64)
    whole = quantize(x, activation)
    shards = np.stack([x[:, :32], x[:, 32:]])
    together = {"absmax": jax.lax.pmax, "absmean": jax.lax.pmean}[activation.statistic]

    @jax.jit
    def sharded(shards):
        def one(x):
            return quantize(x, activation, together(statistic(x, activation), "shards"))

        return jax.vmap(one, axis_name="shards")(shards)

    q, a, scale = sharded(shards)
    # A maximum is exact; a mean of means adds in another order: one unit in the last place.
    ulps = 0 if activation.statistic == "absmax" else 1
    for index in range(2):
        np.testing.assert_array_max_ulp(np.asarray(a[index]), whole[1], ulps)
        check(
            (q[index], a[index], scale[index]),
            quantize(shards[index], activation, np.asarray(a[0])),
        )
    given = quantize(x[:, :32], activation, statistic(x, activation))
    check(given, (whole[0][:, :32], *whole[1:]))


@pytest.mark.parametrize("activation", ROWS, ids=str)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 0, 4)], ids=str)
def test_axes_of_size_zero(activation, shape):
    for x in (np.zeros(shape, np.float32), jnp.zeros(shape)):
        q, a, scale = quantize(x, activation)
        assert (q.shape, a.shape, scale.shape) == (shape, (*shape[:-1], 1), (*shape[:-1], 1))
        assert np.isfinite(np.asarray(scale)).all()


@pytest.mark.parametrize("activation", ROWS, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_the_statistic_of_a_spoiled_token_says_so(activation, bad):
    x = jnp.asarray(tokens(3, 16)).at[1, 4].set(bad)
    _, a, scale = jax.jit(lambda x: quantize(x, activation))(x)
    for found in (a, scale):
        np.testing.assert_array_equal(np.isfinite(np.asarray(found))[:, 0], [True, False, True])


def test_the_default_row_is_what_ternary_weights_are_multiplied_by():
    x = tokens(4, 33)
    q, a, _ = quantize(x)
    check(quantize_activations(x), (q, a))
    np.testing.assert_array_equal(activation_scale(x), a)


def test_an_unknown_row_is_refused():
    with pytest.raises(UsageError, match="activations of 3 bits by 'absmax'") as caught:
        Activation(3)
    assert caught.value.code == "quant.activation"
    assert "4 bits absmean" in (caught.value.hint or "")
