"""Sensitivity: what is measured is what a hand computes; what is predicted orders linears alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.analysis.hessians import hessians
from bitnet_jax.analysis.products import observe, weight_errors
from bitnet_jax.analysis.sensitivity import Sensitivity
from bitnet_jax.core.errors import BadData, CheckFailed
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.tap import tap
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.ternary import ternarize as trits_of

VOCABULARY = 40
RULES = (Rule("*_proj"), Rule("head", to="int4", scale="row"))
WINDOWS = np.random.default_rng(0).integers(0, VOCABULARY, (6, 16)).astype(np.int32)
Q = "down_proj"


def forward(params, tokens):
    """The least that is causal and has linears one after another: compiled in no time."""
    x = params["embed"][tokens]
    x = jnp.cumsum(x, 1) / jnp.arange(1, 1 + tokens.shape[1])[:, None] ** 0.5
    for name in ("up_proj", "mid_proj", "down_proj"):
        x = x + jnp.tanh(x @ params[name].T)
    return x @ params["head"].T


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    shapes = {name: (32, 32) for name in ("up_proj", "mid_proj", "down_proj")}
    shapes |= {"embed": (VOCABULARY, 32), "head": (VOCABULARY, 32)}
    params = {
        name: jnp.asarray(rng.standard_t(4, size=shape) / 6, jnp.float32)
        for name, shape in shapes.items()
    }
    return forward, params, RULES


@pytest.fixture(scope="module")
def subject(model):
    return Sensitivity(*model, WINDOWS, VOCABULARY)


def by_hand(model, rules):
    """KL from the float model, and the loss, in float64 numpy."""
    forward, params, _ = model

    def logp(fn):
        logits = np.asarray(fn(params, WINDOWS)[:, :-1], np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    p, q = logp(forward), logp(ternarize(forward, rules))
    targets = WINDOWS[:, 1:, None]
    return (np.exp(p) * (p - q)).sum(-1), -np.take_along_axis(q, targets, -1)[..., 0]


@pytest.mark.parametrize("rules", [[Rule(Q)], list(RULES)])
def test_what_is_measured_is_what_the_transform_gives(model, subject, rules):
    names = [Q] if len(rules) == 1 else subject.names
    choice = np.array([[name in names for name in subject.names]], np.float32)
    (found,) = subject.measure(choice)
    kl, nll = by_hand(model, rules)
    # A code of an activation that lies at a half falls either way: tokens differ, the mean less.
    assert found.kl.mean() == pytest.approx(kl.mean(), rel=1e-3)
    assert found.nll.mean() == pytest.approx(nll.mean(), rel=1e-4)


def test_nothing_chosen_costs_nothing(subject):
    (found,) = subject.measure(np.zeros(len(subject.names)))
    assert not found.kl.any() and found.same.all()


def test_a_last_batch_that_is_not_full_is_cut(model):
    parts = Sensitivity(*model, WINDOWS[:5], VOCABULARY, logits_at_once=2 * 16 * VOCABULARY)
    whole = Sensitivity(*model, WINDOWS[:5], VOCABULARY)
    assert (parts.batch, whole.batch) == (2, 5)
    (one,), (other,) = (s.measure(np.ones(len(s.names))) for s in (parts, whole))
    assert one.nll.shape == (5, 15)
    np.testing.assert_allclose(one.nll, other.nll, rtol=1e-5)


def test_what_is_predicted_is_near_what_is_measured_even_of_random_weights(subject):
    count = len(subject.names)
    predicted = subject.predict()
    whole, *each = subject.measure(
        np.concatenate([np.ones((1, count)), subject.alone(), subject.without()])
    )
    alone = np.array([losses.kl.mean() for losses in each[:count]])
    kept = np.array([whole.kl.mean() - losses.kl.mean() for losses in each[count:]])
    np.testing.assert_allclose(predicted.alone, alone, atol=0.35 * alone.max())
    np.testing.assert_allclose(predicted.kept, kept, atol=0.35 * np.abs(kept).max())
    assert np.argmax(predicted.alone) == np.argmax(alone)


def test_the_same_seed_predicts_the_same(subject):
    one, other = subject.predict(seed=3), subject.predict(seed=3)
    np.testing.assert_array_equal(one.alone, other.alone)
    np.testing.assert_array_equal(one.kept, other.kept)


def test_logits_that_are_no_numbers_are_told(model):
    forward, params, rules = model
    spoiled = {**params, "embed": params["embed"] * np.nan}
    with pytest.raises(CheckFailed) as caught:
        Sensitivity(forward, spoiled, rules, WINDOWS, VOCABULARY).measure(np.ones(4))
    assert caught.value.code == "score.not_finite"


# ------------------------------------------------------------ what goes through a linear
def test_inputs_and_outputs_are_described_as_taps_show_them(model):
    forward, params, rules = model
    found = observe(forward, params, rules, WINDOWS, 4)  # 6 windows: the last batch is smaller
    assert set(found) == {"up_proj", "mid_proj", "down_proj", "head"}
    x = np.asarray(tap(forward, f"{Q}:input")(params, WINDOWS)[1][f"{Q}:input"])
    x = x.reshape(-1, x.shape[-1])
    row = found[Q]["activations"]
    rms = np.sqrt((x * x).mean())
    assert row["rms"] == pytest.approx(rms, rel=1e-5)
    assert row["absmax"] == pytest.approx(np.abs(x).max(), rel=1e-5)
    each = np.abs(x).max(-1) / np.sqrt((x * x).mean(-1))
    assert row["crest"] == pytest.approx(each.mean(), rel=1e-4)
    assert row["outlier_channels"] == np.mean(np.abs(x).max(0) > 6 * rms)
    assert 0.05 < found[Q]["output_nmse"] < 1


def test_weights_are_described_by_their_own_quantization(model):
    forward, params, rules = model
    packed = pack(forward, params, rules, WINDOWS[:1])
    found = weight_errors(params, packed)
    w = np.asarray(params[Q])
    trits, scale = trits_of(w)
    nmse = ((w - trits * scale) ** 2).sum() / (w**2).sum()
    assert found[Q]["nmse"] == pytest.approx(nmse, rel=1e-5)
    assert found[Q]["sqnr_db"] == pytest.approx(-10 * np.log10(nmse), rel=1e-5)
    assert found[Q]["zero_share"] == np.mean(trits == 0)
    assert found[Q]["kind"] == "ternary" and found[Q]["scale"] == "tensor"


@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_sums_of_inputs_are_those_of_the_taps_however_many_at_once(model, at_once):
    forward, params, rules = model
    names = (Q, "up_proj")
    inputs = {name: params[name].shape[1] for name in names}
    found = dict(hessians(forward, params, rules, WINDOWS, inputs, at_once=at_once))
    for name in names:
        x = np.asarray(tap(forward, f"{name}:input")(params, WINDOWS)[1][f"{name}:input"])
        x = x.reshape(-1, x.shape[-1]).astype(np.float64)
        np.testing.assert_allclose(found[name], x.T @ x, rtol=1e-4, atol=1e-4)


def test_a_stack_has_no_sums_of_its_own():
    params = {"w": np.ones((2, 4, 4), np.float32), "e": np.ones((8, 4), np.float32)}

    def fn(params, tokens):
        x = params["e"][tokens]
        return jax.lax.scan(lambda x, w: (x @ w, None), x, params["w"])[0]

    with pytest.raises(BadData) as caught:
        list(hessians(fn, params, (Rule("w"),), np.zeros((1, 3), np.int32), {"w": 4}))
    assert caught.value.code == "quant.no_hessian"
