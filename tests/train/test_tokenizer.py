"""The tokenizer: the form that transformers and llama.cpp read, and no lost byte."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.tokenizer_parts import PATTERN
from bitnet_jax.train.corpus import python_corpus
from bitnet_jax.train.tokenizer import SPECIAL_TOKENS, train_tokenizer


@pytest.fixture(scope="module")
def texts():
    return [d.text for d in python_corpus(max_bytes=300_000).train]


@pytest.fixture(scope="module")
def trained(texts):
    return train_tokenizer(texts, vocab_size=512, max_length=128)


def test_same_corpus_same_bytes(texts, trained):
    assert train_tokenizer(texts, vocab_size=512, max_length=128).json == trained.json


def test_vocabulary_has_the_size_asked_for(trained):
    tokenizer = Tokenizer.from_buffer(trained.json)
    assert tokenizer.get_vocab_size() == trained.vocab_size == 512
    assert sorted(tokenizer.get_vocab().values()) == list(range(512))


def test_special_tokens_come_last(trained):
    assert [trained.bos_id, trained.eos_id, trained.turn_end_id] == [509, 510, 511]
    tokenizer = Tokenizer.from_buffer(trained.json)
    assert [tokenizer.id_to_token(i) for i in (509, 510, 511)] == list(SPECIAL_TOKENS)


@pytest.mark.parametrize("text", ["def f(x):\n    return x\n", "naïve 漢字 🙂", "\x00\x7f", " "])
def test_every_byte_comes_back(trained, text):
    tokenizer = Tokenizer.from_buffer(trained.json)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_adds_the_begin_token(trained):
    assert Tokenizer.from_buffer(trained.json).encode("a").ids[0] == trained.bos_id


def test_control_tokens_in_a_text_are_plain_text(trained):
    stream = trained.encode_documents(["a<|eot_id|>b", "c"])
    assert trained.turn_end_id not in stream
    assert list(stream).count(trained.bos_id) == list(stream).count(trained.eos_id) == 2
    assert stream[0] == trained.bos_id and stream[-1] == trained.eos_id


def test_is_llama3s_pre_tokenizer(trained):
    steps = json.loads(trained.json)["pre_tokenizer"]["pretokenizers"]
    assert steps[0]["pattern"]["Regex"] == PATTERN
    assert steps[1]["type"] == "ByteLevel"


def test_config_names_the_special_tokens(trained):
    assert trained.config["bos_token"] == SPECIAL_TOKENS[0]
    assert trained.config["model_max_length"] == 128
    assert set(trained.config["added_tokens_decoder"]) == {"509", "510", "511"}
    assert trained.generation["eos_token_id"] == [510, 511]


def test_too_little_text():
    with pytest.raises(BadData) as caught:
        train_tokenizer(["aaaa"], vocab_size=512)
    assert caught.value.code == "train.vocab_size"
