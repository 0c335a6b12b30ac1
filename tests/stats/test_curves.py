"""A long series kept short."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jax.stats.curves import Thinned


def thinned(values, limit):
    curve = Thinned(limit)
    for place, value in enumerate(values):
        curve.add(place, value, index=place)
    return curve.stretches


def test_a_short_series_is_kept_as_it_is():
    stretches = thinned([3.0, 1.0, 2.0], 2)
    assert [(s.last, s.mean, s.low, s.high, s.count) for s in stretches] == [
        (0, 3.0, 3.0, 3.0, 1),
        (1, 1.0, 1.0, 1.0, 1),
        (2, 2.0, 2.0, 2.0, 1),
    ]


def test_a_long_one_becomes_means_of_neighbours():
    stretches = thinned([1.0, 3.0, 5.0, 7.0, 9.0], 2)
    assert [(s.last, s.mean, s.low, s.high, s.count) for s in stretches] == [
        (1, 2.0, 1.0, 3.0, 2),
        (3, 6.0, 5.0, 7.0, 2),
        (4, 9.0, 9.0, 9.0, 1),
    ]
    assert stretches[0].beside == {"index": 1}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 10))
def test_nothing_is_lost_but_detail(values, limit):
    stretches = thinned(values, limit)
    assert len(stretches) <= 2 * limit
    assert sum(s.count for s in stretches) == len(values) and stretches[-1].last == len(values) - 1
    assert min(s.low for s in stretches) == min(values)
    assert max(s.high for s in stretches) == max(values)
    assert all(s.low <= s.mean <= s.high for s in stretches)
    total = sum(s.mean * s.count for s in stretches)
    assert total == pytest.approx(math.fsum(values), rel=1e-9, abs=1e-3)
    assert len({s.count for s in stretches[:-1]}) <= 1
