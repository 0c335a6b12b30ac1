"""What of a stranger's text is spelled out, in terminals and reports alike."""

import pytest

from bitnet_jax.core.letters import spelled_out
from bitnet_jax.report import format as of_reports


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.bitnet", "model.bitnet"),
        ("größer 中文 🙂 e\u0301 a\u200db", "größer 中文 🙂 e\u0301 a\u200db"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J\x07\x7f\x9b", "\\x1b[2J\\x07\\x7f\\x9b"),
        ("\r\v\f\x85", "\\x0d\\x0b\\x0c\\x85"),
        ("\u202egnp.exe \u2066\u200f\u061c", "\\u202egnp.exe \\u2066\\u200f\\u061c"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800 \ufffe \ufdd0 \U0001ffff", "\\ud800 \\ufffe \\ufdd0 \\U0001ffff"),
    ],
)
def test_it_shows_letters_only(text, shown):
    assert spelled_out(text) == shown
    assert of_reports.show(text) == shown


def test_what_is_kept_is_the_callers():
    assert spelled_out("a\nb\tc", keep="") == "a\\x0ab\\x09c"
    assert spelled_out("a\nb\tc", keep="\t") == "a\\x0ab\tc"
