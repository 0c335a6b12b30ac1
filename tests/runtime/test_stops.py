from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jax.core.errors import UsageError
from bitnet_jax.runtime.stops import MAX_STOP_CHARACTERS, MAX_STOPS, StopRules, StopText


def run(stops, pieces):
    matcher = StopText(stops)
    out = [matcher.push(piece) for piece in pieces]
    return "".join([*out, matcher.finish()]), matcher.matched


def plain(text, stops):
    found = [text.find(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else text


# Two letters make stops overlap themselves and each other all the time.
WORDS = st.text("ab", min_size=1, max_size=5)


@given(st.lists(WORDS, max_size=4), st.lists(st.text("abc", max_size=4), max_size=12))
def test_any_cutting_gives_what_the_whole_text_gives(stops, pieces):
    text = "".join(pieces)
    result = run(stops, pieces)
    assert result[0] == plain(text, stops)
    assert result == run(stops, [text]) == run(stops, list(text))


@given(WORDS, st.lists(st.text("abc", max_size=4), max_size=12))
def test_one_stop_is_split(stop, pieces):
    assert run([stop], pieces)[0] == "".join(pieces).split(stop)[0]


def test_text_is_let_out_as_soon_as_it_is_certain():
    matcher = StopText(["\n\nUser:"])
    assert matcher.push("Hello\n") == "Hello"
    assert matcher.push("world") == "\nworld"
    assert matcher.push("\n\nUs") == ""
    assert matcher.push("er: x") == ""
    assert matcher.matched == "\n\nUser:"
    assert matcher.push("more") == "" and matcher.finish() == ""


def test_an_earlier_start_wins_over_an_earlier_end():
    assert run(["abc", "b"], ["ab", "c"]) == ("", "abc")
    assert run(["abc", "b"], ["ab", "d"]) == ("a", "b")
    assert run(["abc", "b"], ["ab"]) == ("a", "b")


def test_rules_are_checked():
    assert StopRules.of("x").strings == ("x",)
    assert StopRules.of(["x", "x", "y"], [1, 2]) == StopRules(("x", "y"), frozenset({1, 2}))
    assert StopRules.of(None) == StopRules()
    cases = {
        "stop.empty": [""],
        "stop.type": [3],
        "stop.too_many": [str(n) for n in range(MAX_STOPS + 1)],
        "stop.too_long": ["x" * (MAX_STOP_CHARACTERS + 1)],
    }
    for code, strings in cases.items():
        with pytest.raises(UsageError) as caught:
            StopRules.of(strings)
        assert caught.value.code == code
