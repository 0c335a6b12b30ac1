from __future__ import annotations

import math

import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.stats.medians import (
    Summary,
    bootstrap_interval,
    geometric_mean,
    interleave,
    mad,
    median,
    ratio_interval,
)


def test_median_and_mad():
    assert median([5, 1, 100]) == 5
    assert median([1, 2, 3, 4]) == 2.5
    assert mad([1, 1, 2, 2, 4, 6, 9]) == 1
    assert math.isnan(median([1, math.nan]))
    assert geometric_mean([1, 4]) == pytest.approx(2)


def test_the_interval_is_repeatable_and_holds_the_median(rng):
    values = rng.normal(10, 1, 50)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert low < median(values) < high
    assert bootstrap_interval([3.0]) == (3.0, 3.0)


def test_the_interval_covers_the_truth_as_often_as_it_says(rng):
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=25), samples=300)
        hits += low <= 0 <= high
    # 95 % of 200 is 190; the percentile bootstrap of a median is a little off, either way.
    assert 180 <= hits <= 199


def test_chunks_change_nothing():
    values = np.arange(3000.0)
    low, high = bootstrap_interval(values)  # 1398 samples in a chunk, of 2000
    assert 1400 < low < 1499.5 < high < 1600


def test_a_ratio_of_interleaved_runs_cancels_what_both_saw(rng):
    drift = np.exp(rng.normal(0, 1, 40))
    low, high = ratio_interval(2 * drift, drift)
    assert low == high == pytest.approx(2)
    with pytest.raises(UsageError):
        ratio_interval([1, 2], [1])


def test_summary():
    summary = Summary.of([1, 2, 3])
    assert (summary.count, summary.median, summary.mad) == (3, 2, 1)
    assert 1 <= summary.low <= 2 <= summary.high <= 3


def test_interleaving_calls_all_in_every_round_and_rotates():
    calls, now = [], iter(range(1000))
    work = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = interleave(work, 3, warmup=1, clock=lambda: next(now))
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1], "c": [1, 1, 1]}
    rounds = ["".join(calls[i : i + 3]) for i in range(0, 12, 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]
    assert interleave({}, 1) == {}


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: median([]), "stats.empty"),
        (lambda: bootstrap_interval([1], confidence=1), "stats.confidence"),
        (lambda: bootstrap_interval([1], samples=0), "stats.confidence"),
        (lambda: interleave({}, 0), "stats.repeats"),
    ],
)
def test_what_has_no_answer_is_refused(call, code):
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code
