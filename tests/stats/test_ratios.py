from __future__ import annotations

import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.stats.ratios import ratio_of_medians

NINE, TEN = [9, 9.1, 8.9, 9, 9.05], [10, 10.1, 9.9, 10, 10.05]


def test_a_ratio_and_which_side_of_one_it_is():
    ratio = ratio_of_medians(NINE, TEN)
    assert ratio.value == pytest.approx(0.9) and ratio.below and not ratio.above
    assert ratio.low <= ratio.value <= ratio.high < 1
    assert ratio_of_medians(TEN, NINE).above
    assert ratio == ratio_of_medians(NINE, TEN)


def test_a_scale_is_divided_out():
    ratio = ratio_of_medians(NINE, TEN, scale_above=NINE, scale_below=TEN)
    assert ratio.value == pytest.approx(1) and not ratio.below and not ratio.above


def test_runs_of_one_thing_are_called_slower_no_more_often_than_said(rng):
    wrong = 0
    for _ in range(200):
        a, b = rng.normal(100, 5, (2, 12))
        wrong += ratio_of_medians(a, b, samples=400).below
    # One side of 5 % is 2.5 %: 5 of 200. The bootstrap of a median of 12 is a little short.
    assert wrong <= 12


@pytest.mark.parametrize(
    "values", [[1.0] * 4, [], [1, 2, 3, 4, 0], [1, 2, 3, 4, -1], [1, 2, 3, 4, np.nan]]
)
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(UsageError) as caught:
        ratio_of_medians(values, TEN)
    assert caught.value.code == "stats.few"
