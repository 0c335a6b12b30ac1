from __future__ import annotations

import json
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.runtime.tokenizer import Tokenizer
from tests.runtime import vocabularies

BYTES = Tokenizer.from_files(vocabularies.files())
FALLBACK = Tokenizer(vocabularies.byte_fallback_json(), {"eos_token": "</s>"}, {})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(TEXTS)
def test_text_survives_encode_and_decode(text):
    assert BYTES.decode(BYTES.encode(text)) == text


def test_the_post_processor_runs_only_when_asked():
    assert BYTES.encode("a")[0] == BYTES.bos_id == 0
    assert BYTES.encode("a", add_special_tokens=False) == BYTES.encode("a")[1:]
    assert BYTES.encode("") == [0]
    assert BYTES.encode("", add_special_tokens=False) == []


def test_a_special_token_in_text_is_text_unless_allowed():
    text = "a<|eot_id|>b"
    plain = BYTES.encode(text, add_special_tokens=False)
    assert not set(plain) & set(BYTES.special_tokens.values())
    assert BYTES.decode(plain) == text
    parsed = BYTES.encode(text, add_special_tokens=False, allow_special=True)
    assert parsed[1] == BYTES.special_tokens["<|eot_id|>"]
    assert BYTES.decode(parsed) == "ab"
    assert BYTES.decode(parsed, skip_special_tokens=False) == text


@given(st.lists(st.integers(0, BYTES.vocab_size + 3), max_size=30), st.booleans())
def test_a_byte_level_stream_gives_what_decode_gives(ids, skip):
    stream = BYTES.stream(skip_special_tokens=skip)
    pieces = [stream.push(id_) for id_ in ids]
    assert "".join([*pieces, stream.finish()]) == BYTES.decode(ids, skip_special_tokens=skip)


@given(st.text("ab cé你🙂�", max_size=20), st.booleans())
def test_a_byte_fallback_stream_gives_what_decode_gives(text, skip):
    ids = FALLBACK.encode(text)
    stream = FALLBACK.stream(skip_special_tokens=skip)
    pieces = [stream.push(id_) for id_ in ids]
    assert "".join([*pieces, stream.finish()]) == FALLBACK.decode(ids, skip_special_tokens=skip)
    assert FALLBACK.decode(ids) == text


@pytest.mark.parametrize("tokenizer", [BYTES, FALLBACK], ids=["byte-level", "byte-fallback"])
def test_a_split_character_is_held_until_it_is_whole(tokenizer):
    ids = tokenizer.encode("漢", add_special_tokens=False)
    assert len(ids) > 1
    stream = tokenizer.stream()
    assert [stream.push(id_) for id_ in ids][-1].lstrip() == "漢"
    assert stream.finish() == ""


def test_half_a_character_at_the_end_comes_out_as_a_replacement():
    for tokenizer in (BYTES, FALLBACK):
        *most, _ = tokenizer.encode("漢", add_special_tokens=False)
        stream = tokenizer.stream()
        assert "".join(stream.push(id_) for id_ in most).strip() == ""
        assert "\ufffd" in stream.finish()


def test_ids_name_the_ends_of_every_file():
    files = vocabularies.files(generation={"eos_token_id": [2, 1], "bos_token_id": 5})
    tokenizer = Tokenizer.from_files(files)
    assert tokenizer.eos_ids == (1, 2)
    assert tokenizer.bos_id == 0  # the config's, before the generation's
    bare = Tokenizer.from_files(vocabularies.files(config={}, generation={"bos_token_id": 5}))
    assert (bare.bos_id, bare.eos_ids) == (5, ())


def test_sizes_and_spellings():
    assert BYTES.vocab_size == 301
    assert BYTES.token(2) == "<|eot_id|>" and BYTES.id_of("<|eot_id|>") == 2
    assert BYTES.token(9999) is None and BYTES.id_of("nope") is None
    assert dict(BYTES.named_tokens)["eos_token"] == "<|end_of_text|>"
    BYTES.check_fits(301)
    with pytest.raises(BadData) as caught:
        BYTES.check_fits(300)
    assert caught.value.code == "tokenizer.vocabulary"


def test_saved_truncation_and_padding_are_off():
    document = json.loads(vocabularies.byte_level_json())
    document["truncation"] = {
        **{"direction": "Right", "max_length": 2},
        **{"strategy": "LongestFirst", "stride": 0},
    }
    document["padding"] = {
        **{"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
    }
    tokenizer = Tokenizer(json.dumps(document), {}, {})
    assert tokenizer.encode("one two three") == BYTES.encode("one two three")


@pytest.mark.parametrize(
    "source",
    [b"", b"<html>", b"{}", b"[]", b'{"model": {}}', b'{"model": {"type": "?"}}', b"\xff\xfe"],
)
def test_what_is_not_a_tokenizer_is_refused(source):
    with pytest.raises(BadData) as caught:
        Tokenizer.from_files(types.SimpleNamespace(tokenizer_json=source, config={}, generation={}))
    assert caught.value.code == "tokenizer.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"eos_token": "<nowhere>"}},
        {"config": {"bos_token": 5}},
        {"generation": {"eos_token_id": "2"}},
        {"generation": {"eos_token_id": [-1]}},
    ],
)
def test_names_that_the_vocabulary_lacks_are_refused(changes):
    with pytest.raises(BadData) as caught:
        Tokenizer.from_files(vocabularies.files(**changes))
    assert caught.value.code == "tokenizer.special"


def test_lone_surrogates_are_refused_where_they_stand():
    with pytest.raises(UsageError, match="U\\+D800 at character 2") as caught:
        BYTES.encode("ab\ud800")
    assert caught.value.code == "tokenizer.surrogate"


@pytest.mark.parametrize("bad", [-1, 2**32, 1.5, "1", None])
def test_what_is_not_an_id_is_refused(bad):
    for use in (lambda: BYTES.decode([bad]), lambda: BYTES.stream().push(bad)):
        with pytest.raises(UsageError) as caught:
            use()
        assert caught.value.code == "tokenizer.id"


@pytest.mark.heavy
def test_ids_and_text_equal_those_of_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    (tmp_path / "tokenizer.json").write_text(vocabularies.byte_level_json())
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in [*vocabularies.TEXT, "", " two  spaces ", "a<tool call>b", "\n\tx\r\n"]:
        assert BYTES.encode(text) == theirs(text)["input_ids"]
        assert BYTES.decode(BYTES.encode(text)) == theirs.decode(
            theirs(text)["input_ids"], skip_special_tokens=True
        )


def test_a_token_that_no_text_can_hold_is_refused():
    files = vocabularies.files(config={"bos_token": "\ud800"})
    with pytest.raises(BadData) as caught:
        Tokenizer.from_files(files)
    assert caught.value.code == "tokenizer.special"
    str(caught.value).encode()


def test_a_tokenizer_that_is_taken_and_then_fails_is_an_error_not_a_panic():
    found = json.loads(vocabularies.byte_level_json())
    found["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip
    tokenizer = Tokenizer.from_files(vocabularies.files(json.dumps(found)))
    with pytest.raises(BadData) as caught:
        tokenizer.encode("a" * 100 + "!")
    assert caught.value.code == "tokenizer.json" and len(caught.value.message) < 400


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_steps_that_make_a_text_grow_without_end(part):
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 32}
    key = "normalizers" if part == "normalizer" else "decoders"
    found = json.loads(vocabularies.byte_level_json())
    for count, refused in ((1, False), (3, True)):
        found[part] = {"type": "Sequence", key: [step] * count}
        files = vocabularies.files(json.dumps(found))
        if not refused:
            Tokenizer.from_files(files)
            continue
        with pytest.raises(BadData, match="letters of one") as caught:
            Tokenizer.from_files(files)
        assert caught.value.code == "tokenizer.json"


@pytest.mark.parametrize("listed", [{"a": 0, "b": 7, "c": 3}, {"a": 0, "[UNK]": 9}])
def test_the_size_of_a_vocabulary_with_gaps_is_one_more_than_its_highest_id(listed):
    import tokenizers

    model = tokenizers.models.WordLevel({**listed, "[UNK]": listed.get("[UNK]", 1)}, "[UNK]")
    made = tokenizers.Tokenizer(model)
    made.add_special_tokens(["<end>"])
    found = Tokenizer(made.to_str(), {}, {})
    assert found.vocab_size == 1 + max(made.get_vocab(with_added_tokens=True).values())
