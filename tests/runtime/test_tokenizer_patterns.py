"""Patterns of a tokenizer.json that would never end on a long text, and those that do."""

from __future__ import annotations

import json
import time

import pytest

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.runtime.tokenizer_patterns import KNOWN
from tests.runtime import vocabularies

REAL = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek": r"\p{N}{1,3}",
    "falcon": r"[0-9][0-9][0-9]",
}
SLOW = {
    "squared on prose": r" ?[^\p{Lo}]*\p{Lo}",
    "cubed": r"\p{L}*\p{L}*\p{N}",
    "without end": r"(\p{L}+)+\p{N}",
}


def source(pattern: str, where: str = "pre_tokenizer") -> str:
    found = json.loads(vocabularies.files().tokenizer_json)
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}
    found[where] = split if where == "pre_tokenizer" else replace
    return json.dumps(found)


@pytest.mark.parametrize("name", REAL)
def test_a_real_pattern_is_taken(name):
    assert REAL[name] not in KNOWN
    assert Tokenizer(source(REAL[name]), {}, {}).encode("some text 123")


@pytest.mark.parametrize("pattern", [REAL["o200k"], r" ?\p{L}*\p{N}"])
def test_one_that_takes_the_square_of_a_run_refuses_long_runs(pattern):
    tokenizer = Tokenizer(source(pattern), {}, {})
    assert tokenizer.encode("A" * 2000 + " some text " * 10_000)
    with pytest.raises(UsageError, match="20001 letters on end at character 5") as caught:
        tokenizer.encode("some " + "A" * 20_001)
    assert caught.value.code == "tokenizer.run" and caught.value.hint


def test_our_own_pattern_takes_runs_of_any_length():
    assert Tokenizer(source(*KNOWN), {}, {}).encode("A" * 100_000)


@pytest.mark.parametrize("where", ["pre_tokenizer", "normalizer"])
@pytest.mark.parametrize("name", SLOW)
def test_a_pattern_that_never_ends_is_refused_in_a_moment(name, where):
    begun = time.process_time()
    with pytest.raises(BadData) as caught:
        Tokenizer(source(SLOW[name], where), {}, {})
    assert caught.value.code in ("tokenizer.slow", "tokenizer.json")
    assert time.process_time() - begun < 30
