"""The numerics contract, in numpy and in JAX, against formulas written out here."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant import ternary
from bitnet_jax.quant.absmean import absmean, tree_sum

SHAPES = [(3, 5), (16, 16), (17, 33), (256, 768), (1000, 37)]


def weights(*shape, seed=0, dtype=np.float32):
    return (np.random.default_rng(seed).normal(size=shape) * 0.02).astype(dtype)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["tensor", "row", "group"])
def test_numpy_and_jax_give_the_same_bits(shape, kind):
    if kind == "group" and shape[1] % 16:
        shape = (shape[0], 48)
    w = weights(*shape)
    trits, scale = ternary.ternarize(w, kind, 16)
    jitted = jax.jit(lambda w: ternary.ternarize(w, kind, 16))
    np.testing.assert_array_equal(jitted(w)[0], trits)
    np.testing.assert_array_equal(jitted(w)[1], scale)
    np.testing.assert_array_equal(ternary.ternarize(jnp.asarray(w), kind, 16)[1], scale)


def test_the_scale_is_the_mean_rounded_to_eight_bits():
    w = weights(64, 96)
    scale = ternary.absmean_scale(w)
    assert float(scale) == pytest.approx(np.abs(w).mean(), rel=2**-8)
    assert scale == np.float32(scale.astype(ml_dtypes.bfloat16))
    full = ternary.absmean_scale(w, scale_dtype="float32")
    assert float(full) == pytest.approx(float(np.abs(w.astype(np.float64)).mean()), rel=3e-7)


def test_trits_round_half_to_even_and_clamp():
    # scale 0.5: ratios -3, -1, -0.5, 0.5, 1.5 and their neighbours
    w = np.array([[-1.5, -0.5, -0.25, 0.25, 0.75, 0.2500001]], np.float32)
    got = ternary.trits_of(w, np.float32(0.5))
    np.testing.assert_array_equal(got, [[-1, -1, 0, 0, 1, 1]])


def test_zero_weights_have_the_smallest_scale_and_zero_trits():
    trits, scale = ternary.ternarize(np.zeros((4, 4), np.float32), scale_dtype="float32")
    assert scale == np.float32(1e-5) and not trits.any()


def test_a_scale_of_ours_is_exact_in_bf16_f16_and_f32():
    for seed in range(50):
        scale = ternary.absmean_scale(weights(33, 20, seed=seed))
        assert np.float32(scale.astype(ml_dtypes.bfloat16)) == scale
        assert np.float32(scale.astype(np.float16)) == scale


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_activations_by_the_formula(dtype):
    x = np.random.default_rng(0).normal(size=(7, 40)).astype(dtype)
    x[3] = 0
    q, a = ternary.quantize_activations(x)
    wide = x.astype(np.float32)
    want_a = np.maximum(np.abs(wide).max(-1, keepdims=True), np.float32(1e-5))
    np.testing.assert_array_equal(a, want_a)
    np.testing.assert_array_equal(q, np.clip(np.rint(wide * (np.float32(127) / want_a)), -128, 127))
    got = jax.jit(ternary.quantize_activations)(x)
    np.testing.assert_array_equal(got[0], q)
    np.testing.assert_array_equal(got[1], a)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 1000])
def test_the_tree_sums_every_element_once(count):
    x = np.arange(1, count + 1, dtype=np.float32)
    assert tree_sum(x) == count * (count + 1) / 2
    assert jax.jit(tree_sum)(x) == count * (count + 1) / 2


def test_the_tree_does_not_depend_on_what_surrounds_it():
    w = weights(128, 300).reshape(-1)
    alone = absmean(w)
    fused = jax.jit(lambda w: absmean(jnp.tanh(w) * 0 + w) * jnp.float32(1))(w)
    batched = jax.jit(jax.vmap(absmean))(np.stack([w, w * 2]))[0]
    assert alone == np.asarray(fused) == np.asarray(batched)


def test_a_weight_at_a_half_rounds_alike_everywhere():
    """0.020019533 / 0.040039062 is 0.50000006; times the rounded reciprocal it is 0.5.

    XLA divides by a broadcast scalar by multiplying, numpy really divides: so the
    contract multiplies. A trained model once met this weight.
    """
    w = np.full((8, 32), 0.020019533, np.float32)
    scale = np.float32(0.040039062)
    want = np.rint(w * (np.float32(1) / scale))
    np.testing.assert_array_equal(ternary.trits_of(w, scale), want)
    jitted = jax.jit(ternary.trits_of)
    np.testing.assert_array_equal(jitted(w, scale), want)
    np.testing.assert_array_equal(jitted(w, jnp.asarray(scale)), want)
    near = scale / 2 * (1 + np.arange(-300, 300, dtype=np.float32) * np.float32(6e-8))
    for s in np.linspace(0.01, 1, 60, dtype=np.float32):
        w = (near / scale * s).reshape(20, 30)
        np.testing.assert_array_equal(jitted(w, s), ternary.trits_of(w, s))


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="scale dtype `f8`"):
        ternary.absmean_scale(weights(4, 4), scale_dtype="f8")
    with pytest.raises(UsageError, match="scale kind `col`"):
        ternary.absmean_scale(weights(4, 4), "col")
