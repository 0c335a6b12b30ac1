"""The parity figures: what they see, and that they cannot be talked into agreement."""

import numpy as np
import pytest

from bitnet_jax.workflows.parity import compare_logits


def logits(seed=0):
    return np.random.default_rng(seed).normal(size=(2, 30, 50)).astype(np.float32)


def test_equal_logits_agree():
    parity = compare_logits(logits(), logits())
    assert parity.holds
    assert (parity.max_logit_difference, parity.tokens) == (0.0, 60)


def test_a_few_flipped_tokens_leave_the_median_alone():
    other = logits()
    other[0, 25:] += 0.01
    parity = compare_logits(logits(), other)
    assert parity.max_logit_difference > 1e-3
    assert parity.median_logit_difference == 0
    assert parity.holds


def test_a_small_difference_everywhere_does_not_pass():
    parity = compare_logits(logits(), logits() * np.float32(1 + 1e-5))
    assert not parity.holds


def test_a_changed_best_token_with_a_clear_margin_does_not_pass():
    other = logits()
    other[1, 3] = -other[1, 3]
    assert not compare_logits(logits(), other).holds


@pytest.mark.parametrize(("flipped", "holds"), [(9, True), (11, False)])
def test_of_a_hundred_clear_tokens_one_may_differ(flipped, holds):
    reference = np.random.default_rng(0).normal(size=(1000, 50)).astype(np.float32)
    reference[:, 7] = 9  # clear everywhere
    other = reference.copy()
    other[:flipped, 7] = 0
    assert compare_logits(reference, other).holds is holds


def test_a_changed_best_token_within_the_margin_passes():
    reference = logits()
    reference[0, 0, 7], reference[0, 0, 8] = 9.0, 9.0 - 1e-4
    other = reference.copy()
    other[0, 0, 7], other[0, 0, 8] = other[0, 0, 8], other[0, 0, 7]
    parity = compare_logits(reference, other)
    assert parity.top1_agreement < 1 and parity.top1_clear_agreement == 1
    assert parity.holds


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_agreement(side, value):
    pair = [logits(), logits()]
    pair[side][:] = value
    assert not compare_logits(*pair).holds
