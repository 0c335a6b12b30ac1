"""Scales and ticks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jax.report.axes import Scale, scale

FLOATS = st.floats(-1e12, 1e12, allow_subnormal=False)


def test_a_value_is_placed_in_proportion():
    assert Scale(0, 10, 100, 200).at(2.5) == 125
    assert Scale(1, 100, 0, 200, log=True).at(10) == pytest.approx(100)
    assert Scale(0, 10, 200, 100).at(10) == 100  # upwards


def test_a_value_outside_stays_at_the_edge():
    assert Scale(0, 10, 0, 100).at(11) == 100
    assert Scale(0, 10, 0, 100).at(-1) == 0


@pytest.mark.parametrize(
    ("values", "options", "ends"),
    [
        ([3.0, 8.4], {}, (2, 10)),
        ([3.0, 8.4], {"zero": True}, (0, 10)),
        ([-3.0, 8.0], {"zero": True}, (-5, 10)),
        ([3.0, 8.4], {"tight": True}, (3, 8.4)),
        ([5.0], {}, (2, 8)),
        ([0.0], {}, (-0.6, 0.6)),
        ([5.0], {"zero": True}, (0, 5)),
        ([0.0], {"zero": True}, (0, 1)),
        ([None, 2.0, 4.0], {}, (2, 4)),
        ([], {}, (0, 1)),
        ([2.0, 300.0], {"log": True}, (1, 1000)),
        ([10.0], {"log": True}, (10, 100)),
        ([0.0, -1.0, 2.0], {"log": True}, (1, 10)),  # what has no logarithm is left out
        ([], {"log": True}, (1, 10)),
    ],
)
def test_ends_are_round_and_hold_all_values(values, options, ends):
    made = scale(values, 0, 100, **options)
    assert (made.low, made.high) == pytest.approx(ends)


@given(st.lists(FLOATS, min_size=1, max_size=5), st.booleans(), st.booleans(), st.integers(2, 9))
def test_any_values_have_a_scale_with_few_ticks_within(values, zero, tight, most):
    made = scale(values, 0, 100, zero=zero, tight=tight)
    assert made.low < made.high
    slack = (made.high - made.low) * 1e-6
    assert made.low - slack <= min(values) and max(values) <= made.high + slack
    ticks, step = made.ticks(most)
    assert step > 0 and len(ticks) <= 2 * most + 2
    assert all(made.low - slack <= tick <= made.high + slack for tick in ticks)


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=4), st.integers(2, 9))
def test_any_positive_values_have_a_logarithmic_scale(values, most):
    made = scale(values, 0, 100, log=True)
    ticks, _ = made.ticks(most)
    # Less than three powers are told apart by 2 and 5 between them: seven in all.
    assert 0 < made.low < made.high and len(ticks) <= max(2 * most + 2, 7)
    assert all(math.isfinite(made.at(value)) for value in [*values, *ticks])
    assert all(0 <= made.at(value) <= 100 for value in values)
