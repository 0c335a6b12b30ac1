"""Means of blocks and rank correlation: known values, and intervals that cover what they say."""

import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.stats.means import mean_interval, ranks, spearman


def test_the_mean_is_over_values_and_the_interval_over_blocks():
    found = mean_interval([np.array([1.0, 3.0]), np.array([5.0])])
    assert found.value == 3.0 and found.low == 2.0 and found.high == 5.0


def test_values_that_go_together_in_a_block_count_once():
    rng = np.random.default_rng(0)
    blocks = np.repeat(rng.normal(size=(40, 1)), 100, 1)
    width = lambda found: found.high - found.low
    joined, apart = mean_interval(blocks), mean_interval(blocks.reshape(-1, 1))
    assert width(joined) == pytest.approx(3.92 / 40**0.5, rel=0.3)
    assert width(joined) > 5 * width(apart)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        found = mean_interval(rng.normal(size=(30, 4)), samples=300, seed=seed)
        inside += found.low <= 0 <= found.high
    assert 175 <= inside <= 198  # a percentile interval of 30 blocks covers 93 %


def test_a_decreasing_function_turns_the_bounds():
    found = mean_interval(np.array([[1.0], [2.0], [4.0]])).through(lambda value: -value)
    assert found.low < found.value < found.high


def test_no_values_are_refused():
    for blocks in ([], [np.array([])]):
        with pytest.raises(UsageError) as caught:
            mean_interval(blocks)
        assert caught.value.code == "stats.empty"


def test_equal_values_share_their_rank():
    assert ranks([3.0, 1.0, 3.0, 0.0]).tolist() == [2.5, 1.0, 2.5, 0.0]


@pytest.mark.parametrize(
    ("other", "value"), [([1, 2, 4, 9], 1.0), ([9, 4, 2, 1], -1.0), ([2, 1, 4, 3], 0.6)]
)
def test_rank_correlation_of_known_orders(other, value):
    found = spearman([1, 2, 3, 4], other)
    assert found.value == pytest.approx(value)
    assert found.low <= found.value <= found.high


def test_its_interval_tells_few_from_many():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    few, many = spearman(x[:20], y[:20]), spearman(x, y)
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert many.low < 0.69 < many.high  # of normal values correlated by 1/√2


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ([1, 2, 3], [1, 2], "stats.length"),
        ([1, 2], [1, 2], "stats.few"),
        ([1, 1, 1], [1, 2, 3], "stats.constant"),
    ],
)
def test_what_has_no_order_is_refused(one, other, code):
    with pytest.raises(UsageError) as caught:
        spearman(one, other)
    assert caught.value.code == code
