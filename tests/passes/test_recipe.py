"""Recipes: each step against its formula by hand, in training and packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError
from bitnet_jax.passes.recipes.hadamard import hadamard
from bitnet_jax.quant.absmean import absmean
from tests.passes.handwritten import linear

RULES = [bj.Rule("**")]
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(32, 24)), jnp.float32)
STACK = jnp.asarray(RNG.normal(size=(3, 32, 32)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(5, 32)), jnp.float32)
EVERY_STEP = [
    bj.SubNorm("**"),
    bj.Hadamard("**"),
    bj.KeepNofM("**", n=2, m=4),
    bj.QuantizedActivations("**", bits=4, statistic="absmean"),
    bj.LearnedScale("**"),
]


def dense(p, x):
    return x @ p["w"]


def layered(p, x):
    """A scanned stack, then a dense layer with a bias, in a nested tree."""
    y, _ = jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x, p["stack"])
    return y @ p["out"]["w"] + p["out"]["b"]


LAYERED = {"stack": STACK, "out": {"w": W, "b": jnp.zeros(24)}}


def changed(step, fn=dense, params=None, x=X):
    new_fn, new = bj.transform(fn, {"w": W} if params is None else params, [step], x)
    return new_fn, new, jax.jit(bj.ternarize(new_fn, RULES))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: type(step).__name__)
def test_every_step_packs_to_what_it_trained_also_in_a_scan(step):
    fn, params, qat = changed(step, layered, LAYERED)
    packed = bj.pack(fn, params, RULES, X)
    np.testing.assert_array_equal(
        jax.jit(bj.ternarize(fn, RULES, mode="packed"))(packed, X), qat(params, X)
    )


@pytest.mark.heavy
def test_all_steps_together_train_and_pack():
    fn, params = bj.transform(layered, LAYERED, EVERY_STEP, X)
    qat = bj.ternarize(fn, RULES)
    gradients = jax.jit(jax.grad(lambda p: (qat(p, X) ** 2).sum()))(params)
    assert all(float(jnp.abs(g).sum()) > 0 for g in gradients.values())
    packed = bj.pack(fn, params, RULES, X)
    run = bj.ternarize(fn, RULES, mode="packed")
    np.testing.assert_array_equal(jax.jit(run)(packed, X), jax.jit(qat)(params, X))
    # other shapes than those of the example
    np.testing.assert_array_equal(run(packed, X[:2]), qat(params, X)[:2])


def test_a_sub_norm_normalises_what_the_weight_multiplies():
    fn, params, qat = changed(bj.SubNorm("w", eps=1e-3))
    assert params["w.sub_norm"].shape == (32,)
    params["w.sub_norm"] = jnp.arange(32.0)

    def by_hand(p, x):
        scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-3)
        return x * scale * p["w.sub_norm"]

    np.testing.assert_allclose(fn(params, X), by_hand(params, X) @ W, rtol=2e-5, atol=1e-4)
    # the norm's mean is one sum in another order: a last bit of the activations, no code
    np.testing.assert_allclose(
        qat(params, X), linear(by_hand(params, X), W.T), rtol=1e-6, atol=1e-5
    )


def test_a_stack_has_a_sub_norm_per_element():
    fn, params, _ = changed(bj.SubNorm("stack"), layered, LAYERED)
    assert params["stack.sub_norm"].shape == (3, 32)
    gains = params["stack.sub_norm"].at[1].set(0.0)

    def by_hand(x):
        for i in (0, 2):  # the middle layer adds tanh(0)
            normed = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
            x = x + jnp.tanh(normed @ STACK[i])
        return x @ W

    got = fn({**params, "stack.sub_norm": gains}, X)
    np.testing.assert_allclose(got, by_hand(X), rtol=1e-4, atol=1e-3)


def test_hadamard_leaves_the_float_function_and_changes_the_trits():
    fn, params, qat = changed(bj.Hadamard("w"))
    np.testing.assert_allclose(fn(params, X), X @ W, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(qat(params, X), linear(hadamard(X), hadamard(jnp.asarray(W.T))))
    assert not np.allclose(params["w"], W)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", [1, 2, 8, 12, 24, 33])
def test_hadamard_is_its_own_inverse_and_orthonormal(size):
    matrix = hadamard(jnp.eye(size))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)
    np.testing.assert_allclose(hadamard(hadamard(X[:, :size])), X[:, :size], atol=1e-6)


def test_n_of_m_keeps_the_largest_of_each_group_and_teaches_the_rest():
    fn, params, qat = changed(bj.KeepNofM("w", n=1, m=4))
    w = np.asarray(W).T.reshape(24, 8, 4)
    mask = np.abs(w) == np.abs(w).max(-1, keepdims=True)
    np.testing.assert_allclose(
        fn(params, X), X @ (w * mask).reshape(24, 32).T, rtol=1e-5, atol=1e-5
    )
    (quant,) = bj.pack(fn, params, RULES, X).quants()["w"]
    trits = np.asarray(quant.trits())
    assert ((trits.reshape(24, 8, 4) != 0).sum(-1) <= 1).all()
    (whole,) = bj.pack(dense, {"w": W}, RULES, X).quants()["w"]
    np.testing.assert_array_equal(trits, whole.trits() * mask.reshape(24, 32))
    gradient = jax.grad(lambda p: qat(p, X).sum())(params)["w"]
    assert (np.asarray(gradient) != 0).all()


def test_of_equal_weights_the_first_is_kept():
    fn, params, _ = changed(bj.KeepNofM("w", n=2, m=4), params={"w": jnp.ones((32, 8))})
    (quant,) = bj.pack(fn, params, RULES, X).quants()["w"]
    np.testing.assert_array_equal(quant.trits()[0], [1, 1, 0, 0] * 8)


def test_a_learned_scale_starts_where_the_rule_would_and_has_the_gradient_of_lsq():
    fn, params, qat = changed(bj.LearnedScale("w"))
    np.testing.assert_array_equal(params["w.learned_scale"], absmean(W.T.reshape(-1)))
    np.testing.assert_array_equal(qat(params, X), linear(X, W.T))
    got = jax.grad(lambda p: qat(p, X).sum())(params)
    # d(p·s)/ds is p - w/s within the codes' range and p beyond; x's own rounding is exact here
    s = float(np.float32(jnp.bfloat16(params["w.learned_scale"])))
    ratio = np.asarray(W, np.float64) / s
    inside = np.abs(ratio) <= 1
    slope = np.clip(np.rint(ratio), -1, 1) - np.where(inside, ratio, np.clip(np.rint(ratio), -1, 1))
    slope += np.where(inside, 0, np.clip(np.rint(ratio), -1, 1))
    a = np.abs(X).max(-1, keepdims=True)
    rounded = np.rint(np.asarray(X) * (127 / a)) * a / 127
    want = (rounded @ slope).sum()
    np.testing.assert_allclose(got["w.learned_scale"], want, rtol=1e-3)
    np.testing.assert_array_equal(np.asarray(got["w"])[~inside], 0)
    # trained to another value, it is what is packed
    params["w.learned_scale"] = jnp.float32(0.5)
    (quant,) = bj.pack(fn, params, RULES, X).quants()["w"]
    assert float(quant.scale) == 0.5


def test_activations_of_four_bits_by_hand():
    _, params, qat = changed(bj.QuantizedActivations("w", bits=4, statistic="absmax"))
    a = np.abs(X).max(-1, keepdims=True)
    q = np.clip(np.rint(np.asarray(X) * (np.float32(7) / a)), -8, 7)
    s = np.float32(jnp.bfloat16(absmean(W.T.reshape(-1))))
    trits = np.clip(np.rint(np.asarray(W) * (1 / s)), -1, 1)
    want = (q @ trits) * (s * (a * np.float32(1 / 7)))
    np.testing.assert_array_equal(qat(params, X), want)


@pytest.mark.parametrize(
    ("recipe", "code", "said"),
    [
        ([bj.SubNorm("out.q")], "quant.rule_unused", "out.w"),
        ([bj.SubNorm("out.b")], "quant.rule_unused", "is added"),
        ([bj.SubNorm("out.w"), bj.SubNorm("out.w")], "recipe.name", "out.w.sub_norm"),
        ([bj.KeepNofM("out.w", n=2, m=5)], "recipe.n_of_m", "32 inputs"),
    ],
)
def test_a_recipe_that_cannot_be_applied_says_why(recipe, code, said):
    with pytest.raises(UsageError) as caught:
        bj.transform(layered, LAYERED, recipe, X)
    assert caught.value.code == code
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "step",
    [
        lambda: bj.KeepNofM("w", n=5, m=4),
        lambda: bj.LearnedScale("w", scale="group-16"),
        lambda: bj.QuantizedActivations("w", bits=5),
    ],
)
def test_a_step_that_there_is_not_is_refused_when_it_is_written(step):
    with pytest.raises(UsageError):
        step()


def test_a_learned_scale_and_the_rule_must_agree():
    fn, params, _ = changed(bj.LearnedScale("w"))
    with pytest.raises(UsageError, match="learns a scale per tensor"):
        bj.ternarize(fn, [bj.Rule("w", scale="row")])(params, X)
