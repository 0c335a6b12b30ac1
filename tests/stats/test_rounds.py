from __future__ import annotations

import itertools

import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.stats.rounds import Until, paired_rounds, relative_width, rounds


def test_a_narrow_row_stops_and_a_wide_one_goes_on():
    wide = itertools.cycle([1.0, 2.0])
    found = rounds({"narrow": lambda: 5.0, "wide": lambda: next(wide)}, Until(most=9))
    assert found["narrow"] == [5.0] * 5 and len(found["wide"]) == 9


def test_a_slow_row_stops_early():
    now = itertools.count(step=30)
    found = rounds({"slow": lambda: 1.0}, Until(), clock=lambda: float(next(now)))
    assert len(found["slow"]) == 5  # 30 seconds each: of fewer there is no interval to speak of
    values = itertools.cycle([1.0, 2.0])
    found = rounds({"wide": lambda: next(values)}, Until(), clock=lambda: float(next(now)))
    assert len(found["wide"]) == 5


def test_a_count_is_a_count_and_what_stands_beside_is_taken_each_round():
    order = []

    def row(name):
        return lambda: order.append(name) or 1.0

    found = rounds({"a": row("a"), "b": row("b")}, Until(count=3), beside={"x": row("x")})
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3, "x": 3}
    assert "".join(order) == "xabxbaxab"
    assert rounds({}, Until(count=1), beside={"x": row("x")}) == {"x": []}


def test_it_is_told_what_was_measured():
    told = []
    rounds({"a": lambda: 1.0}, Until(count=2), told=told.append)
    assert told == ["a", "a"]
    with pytest.raises(UsageError):
        rounds({"a": lambda: 1.0}, Until(count=0))


def test_the_width_is_relative():
    assert relative_width([10.0, 10.0]) == 0
    assert relative_width([0.0, 0.0]) == float("inf")
    assert 0.04 < relative_width([9.0, 10.0, 11.0, 10.0, 9.5, 10.5]) < 0.2


def test_paired_rounds_rotate_and_give_each_as_many():
    order = []
    names = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    found = paired_rounds(names, lambda values: len(values["a"]) == 3)
    assert "".join(order) == "abcbcacab"
    assert found == {name: [1.0] * 3 for name in "abc"}
    assert paired_rounds({}, lambda values: False) == {}
