from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jax.core.errors import InternalError
from bitnet_jax.runtime.stops import StopRules
from bitnet_jax.runtime.stream import TextAssembler, stream_text
from bitnet_jax.runtime.tokenizer import Tokenizer
from tests.runtime import vocabularies

TOKENIZER = Tokenizer.from_files(vocabularies.files())
EOS = StopRules.of(ids=TOKENIZER.eos_ids)


def ids_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def run(ids, stops=EOS):
    pieces = list(stream_text(ids, TOKENIZER, stops))
    assert [p.finish for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    return "".join(p.text for p in pieces), pieces[-1].finish, sum((p.tokens for p in pieces), ())


def test_ids_that_run_out_end_by_length():
    ids = ids_of("naïve 你好")
    assert run(ids) == ("naïve 你好", "length", tuple(ids))
    assert run([]) == ("", "length", ())


def test_an_end_id_ends_and_has_no_text():
    ids = [*ids_of("fox"), TOKENIZER.eos_ids[0], *ids_of("never")]
    assert run(ids) == ("fox", "eos", tuple(ids[: len(ids_of("fox")) + 1]))


def test_a_stop_string_across_tokens_ends_and_is_cut():
    ids = ids_of("the quick brown fox jumps")
    text, finish, used = run(ids, StopRules.of("wn fo"))
    assert (text, finish) == ("the quick bro", "stop")
    assert len(used) < len(ids)


def test_half_a_stop_or_half_a_character_comes_out_at_the_end():
    assert run(ids_of("the qui"), StopRules.of("quick"))[:2] == ("the qui", "length")
    *most, _ = ids_of("漢")
    assert run(most)[0] == "\ufffd"
    assert run([*most, TOKENIZER.eos_ids[0]])[:2] == ("\ufffd", "eos")


@given(st.text("ab 你", max_size=20), st.sampled_from(["b", "ab", "你 ", "a a"]))
def test_the_text_is_what_stands_before_the_stop(text, stop):
    got, finish, _ = run(ids_of(text), StopRules.of(stop))
    assert got == text.split(stop)[0]
    assert finish == ("stop" if stop in text else "length")


def test_the_source_is_closed_when_the_text_ends():
    closed = []

    def source():
        try:
            yield from [*ids_of("fox"), TOKENIZER.eos_ids[0], *ids_of("never")]
        finally:
            closed.append(True)

    assert run(source())[1] == "eos"
    assert closed == [True]


def test_nothing_follows_the_end():
    assembler = TextAssembler(TOKENIZER, EOS)
    assembler.push(TOKENIZER.eos_ids[0])
    with pytest.raises(InternalError):
        assembler.push(5)
    with pytest.raises(InternalError):
        assembler.end()
