"""How numbers and names are written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jax.core.letters import spelled_out
from bitnet_jax.report.format import number, shorten, show, tick, width, with_unit
from tests.report.reading import shown_value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (-1234, "−1,234"),
        (10**30, "1" + ",000" * 10),
        (0.0, "0"),
        (1.0, "1"),
        (0.3333333333, "0.33333"),
        (0.343900001, "0.34390"),  # there is more behind the zero
        (0.3439, "0.3439"),
        (2.0000048828125, "2.0000"),
        (1234.5678, "1,234.6"),
        (123456.789, "123,457"),
        (12345678.9, "12,345,679"),
        (0.001, "0.001"),
        (0.00012345, "1.2345×10⁻⁴"),
        (1e-9, "1×10⁻⁹"),
        (-2.5e12, "−2.5×10¹²"),
        (5e-324, "4.9407×10⁻³²⁴"),
        (1.7976931348623157e308, "1.7977×10³⁰⁸"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@given(st.floats(-1e300, 1e300, allow_subnormal=False))
def test_a_number_shown_is_the_value_to_five_digits(value):
    shown = shown_value(number(value))
    assert math.isclose(shown, value, rel_tol=6e-5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        ([], "none"),
        ([2560, 6912], "2560, 6912"),
        (["a", 0.5], "a, 0.5"),
        ({"a": 1}, "a: 1"),
        ("a\x1b[2J\x00b", "a\\x1b[2J\\x00b"),
        ("中文 ∑", "中文 ∑"),
    ],
)
def test_show(value, text):
    assert show(value) == text


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.0, 0.2, "0"),
        (-0.0, 0.2, "0"),
        (0.4, 0.2, "0.4"),
        (0.025, 0.025, "0.025"),
        (5000.0, 1000.0, "5k"),
        (2.5e9, 5e8, "2.5G"),
        (1e12, 0.0, "1T"),
        (0.1, 0.0, "0.1"),
        (1e-5, 1e-5, "10⁻⁵"),
        (3e-5, 1e-5, "3×10⁻⁵"),
        (-50.0, 10.0, "−50"),
        (1000001.0, 1.0, "1,000,001"),  # a prefix would hide what tells the ticks apart
    ],
)
def test_tick(value, step, text):
    assert tick(value, step) == text


def test_units():
    assert (with_unit("5", "%"), with_unit("5", "ms"), with_unit("5", "")) == ("5%", "5 ms", "5")


def test_a_name_is_cut_in_its_middle_and_fits():
    name = "layers.79.self_attention.some_projection"
    cut = shorten(name, 120, 12)
    head, tail = cut.split("…")
    assert name.startswith(head) and name.endswith(tail) and head and len(tail) > len(head)
    assert width(cut) * 12 <= 121
    assert shorten("short", 120, 12) == "short"
    assert shorten(name, 1, 12) == "…"


@given(st.text(), st.integers(10, 300))
def test_a_cut_name_never_takes_more_than_its_room(name, room):
    assert width(shorten(name, room, 12)) * 12 <= room or shorten(name, room, 12) == "…"


@given(st.text(st.characters()))
def test_what_is_clean_can_be_written_and_turns_nothing(name):
    cleaned = spelled_out(name)
    cleaned.encode("utf-8")
    assert not set(cleaned) & set("\u202e\u2066\x00\x1b\x7f")
