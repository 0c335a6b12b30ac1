from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jax.core.errors import UsageError
from bitnet_jax.runtime.sampling import SamplingParams, SamplingRows, greedy_tokens, sample
from bitnet_jax.runtime.sampling import kept_weights as _kept_weights

kept_weights = jax.jit(_kept_weights)
# Compiling costs a second a shape, so tests share shapes.
SIZE = 600


def plain_keep(logits, p):
    """The filters in float64, by sorting, one after the other."""
    scores = logits.astype(np.float64) / p.temperature
    keep = np.ones(len(scores), bool)
    if 0 < p.top_k < len(scores):
        keep &= scores >= np.sort(scores)[-p.top_k]
    share = np.where(keep, np.exp(scores - scores.max()), 0)
    if p.top_p < 1:
        order = np.argsort(-share, kind="stable")
        before = np.cumsum(share[order] / share.sum()) - share[order] / share.sum()
        last = scores[order[np.flatnonzero(before < p.top_p)[-1]]]
        keep &= scores >= last
    return keep & (np.exp(scores - scores.max()) >= p.min_p)


def tokens(logits, params, steps=0):
    steps = np.broadcast_to(np.int32(steps), len(params))
    return np.asarray(sample(np.asarray(logits, np.float32), SamplingRows.of(params), steps))


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    # Odd numbers, so that no threshold falls on a sum by construction.
    top_k=st.integers(0, 700),
    top_p=st.sampled_from([0.0137, 0.513, 0.937, 0.9973, 1.0]),
    min_p=st.sampled_from([0.0, 0.0123, 0.517, 1.0]),
    seed=st.integers(-(2**63), 2**64 - 1),
)


# 600 tokens: more than the head that is sorted, so both ways to a threshold are taken.
@settings(max_examples=60, deadline=None)
@given(PARAMS, st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 6.0]))
def test_filters_keep_what_the_plain_form_keeps(params, seed, width):
    logits = (np.random.default_rng(seed).normal(size=SIZE) * width).astype(np.float32)
    kept = np.asarray(kept_weights(logits[None], SamplingRows.of([params])))[0] > 0
    expected = plain_keep(logits, params)
    # A weight below half a unit of 2**-26 counts as none.
    seen = np.exp((logits - logits.max()).astype(np.float64) / params.temperature) > 2.0**-26
    np.testing.assert_array_equal(kept & seen, expected & seen)
    drawn = tokens(np.tile(logits, (4, 1)), [params] * 4, np.arange(4))
    assert expected[drawn].all()


def test_greedy_takes_the_lowest_id_among_equals():
    logits = np.full((4, SIZE), -np.inf, np.float32)
    logits[:3, :4] = [[0, 3, 3, 1], [-1, -1, -1, -1], [-np.inf, -np.inf, 0, -0.0]]
    assert tokens(logits, [SamplingParams()] * 4).tolist() == [1, 0, 2, 0]
    assert greedy_tokens(logits).tolist() == [1, 0, 2, 0]


def test_top_k_of_one_and_a_tiny_top_p_are_greedy(rng):
    logits = rng.normal(size=(4, SIZE)).astype(np.float32)
    best = logits.argmax(-1).tolist()
    for params in (
        SamplingParams(temperature=1, top_k=1),
        SamplingParams(temperature=1, top_p=5e-324),
        SamplingParams(temperature=1, min_p=1),
        SamplingParams(temperature=1e-30),
        SamplingParams(temperature=5e-324),
    ):
        assert tokens(logits, [params] * 4).tolist() == best


def test_equal_logits_stand_or_fall_together():
    logits = np.zeros((1, SIZE), np.float32)
    logits[0, 0] = 1
    for params in (SamplingParams(1.0, top_k=2), SamplingParams(1.0, top_p=0.5)):
        kept = np.asarray(kept_weights(logits, SamplingRows.of([params])))[0] > 0
        assert kept.all()


def test_what_is_masked_is_never_drawn():
    logits = np.full((200, SIZE), -np.inf, np.float32)
    logits[:, [3, 570]] = 0
    drawn = tokens(logits, [SamplingParams(temperature=5)] * 200, np.arange(200))
    assert set(drawn.tolist()) == {3, 570}


def test_frequencies_are_the_probabilities():
    count = 20000
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04]))
    for temperature, top_k in ((1.0, 0), (2.0, 0), (1.0, 3)):
        params = SamplingParams(temperature, top_k, seed=11)
        drawn = tokens(np.tile(logits, (count, 1)), [params] * count, np.arange(count))
        weights = np.exp(logits / temperature) * plain_keep(logits, params)
        expected = count * weights / weights.sum()
        seen = np.bincount(drawn, minlength=5)
        live = expected > 0
        assert not seen[~live].any()
        chi = ((seen - expected)[live] ** 2 / expected[live]).sum()
        assert chi < 18.5  # 99.9 % of chi-squared with 4 degrees of freedom


def test_a_row_does_not_see_its_neighbours(rng):
    logits = (rng.normal(size=(7, SIZE)) * 3).astype(np.float32)
    params = [
        SamplingParams(),
        SamplingParams(0.7, seed=1),
        SamplingParams(1.0, top_k=400, seed=2),
        SamplingParams(1.3, top_p=0.9, seed=3),
        SamplingParams(1.3, top_p=0.99, min_p=0.01, seed=4),
        SamplingParams(0.9, top_k=40, top_p=0.95, seed=5),
        SamplingParams(2.0, seed=6),
    ]
    steps = np.arange(7, dtype=np.int32)
    together = tokens(logits, params, steps)
    weights = np.asarray(kept_weights(logits, SamplingRows.of(params)))
    for size in (1, 4):
        for start in range(0, 8 - size):
            part = slice(start, start + size)
            rows = SamplingRows.of(params[part])
            np.testing.assert_array_equal(kept_weights(logits[part], rows), weights[part])
            alone = tokens(logits[part], params[part], steps[part])
            np.testing.assert_array_equal(alone, together[part])


def test_weights_are_exponentials(rng):
    logits = (rng.normal(size=(4, SIZE)) * 3).astype(np.float32)
    params = [SamplingParams(temperature=t) for t in (0.1, 0.7, 1.0, 100.0)]
    got = np.asarray(kept_weights(logits, SamplingRows.of(params))) / 2**26
    scores = logits.astype(np.float64) / [[p.temperature] for p in params]
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    # 2**-27 from the rounding to units; 2**-24 of the exponent, at most 27 bits, twice.
    np.testing.assert_allclose(got, shares, rtol=3e-6, atol=2.0**-27)


def test_the_seed_and_the_step_decide():
    logits = np.zeros((200, SIZE), np.float32)
    one = SamplingParams(temperature=1, seed=7)
    first = tokens(logits, [one] * 200, np.arange(200))
    np.testing.assert_array_equal(first, tokens(logits, [one] * 200, np.arange(200)))
    assert len(set(first.tolist())) > 150  # steps differ
    seeds = [8, 7 + 2**32, -7, 2**64 - 8]
    for seed in seeds:
        other = [SamplingParams(temperature=1, seed=seed)] * 200
        assert (tokens(logits, other, np.arange(200)) != first).mean() > 0.95


def test_a_changed_value_compiles_nothing():
    logits = np.zeros((4, SIZE), np.float32)
    tokens(logits, [SamplingParams()] * 4)
    before = sample._cache_size()
    for params in (SamplingParams(0.5, 3, 0.5, 0.1, 9), SamplingParams(2.0, 0, 1.0, 0.0, 1)):
        tokens(logits, [params, SamplingParams()] * 2, [4, 5, 6, 7])
    assert sample._cache_size() == before


def test_too_large_a_vocabulary_is_refused():
    with pytest.raises(UsageError) as caught:
        rows = SamplingRows.of([SamplingParams()])
        jax.eval_shape(
            sample, jax.ShapeDtypeStruct((1, 2**18 + 1), np.float32), rows, np.zeros(1, np.int32)
        )
    assert caught.value.code == "sampling.vocabulary"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", v) for v in (-0.1, float("nan"), float("inf"), 1e308, "1", None, True)],
        *[("top_k", v) for v in (-1, 1.5, 2**31, True)],
        *[("top_p", v) for v in (0, -0.1, 1.0001, float("nan"))],
        *[("min_p", v) for v in (-0.1, 1.1, float("nan"))],
        *[("seed", v) for v in (2**64, -(2**63) - 1, 0.5)],
        *[("max_tokens", v) for v in (0, -1, 10**18, 1.5)],
    ],
)
def test_a_value_outside_its_range_names_its_parameter(name, value):
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.code == f"sampling.{name}"
    assert name in caught.value.message
