"""Tokenizers in GGUF files: carried byte for byte, and made again from what llama.cpp reads."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bitnet_jax.containers.gguf import open_gguf_file
from bitnet_jax.core.errors import BadData, CannotCreate
from bitnet_jax.formats.gguf_pre import PRE_TOKENIZERS
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.runtime.tokenizer import Tokenizer
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made
from tests.formats import gguf_tokenizers as some
from tests.tiny import tiny_of, tiny_spec

TRICKY = (
    "", " ", "  two", "a\n\nb", "tab\tand\r\nlines", "don't I'LL we've", "1234567 3.14 12 a1b2",
    "été naïve façade", "русский текст", "你好，世界", "🙂👩\u200d👩\u200d👧 flag 🇫🇷", "x" * 40,
    "   trailing   ", "camelCase_snake-kebab/path.py", "\u00a0nbsp\u2003em", "ﬁ ligature",
    "def f(x):\n    return x**2  # ok\n", "the them then there", "<tool> call", "▁under",
)  # fmt: skip


METASPACE = some.SENTENCEPIECE[-1]


def texts(kind):
    """Those that llama.cpp must make the same tokens of."""
    return [text for text in TRICKY if kind != METASPACE or not text.startswith((" ", "▁"))]


def model(kind):
    spec = tiny_spec(**made.IDS | some.ids(kind) | {"num_layers": 1})
    found = made.model(dataclasses.replace(spec, vocab_size=spec.vocab_size), seed=1)
    name = {"general.name": "A Phi-3"} if kind == "phi3" else {}
    return dataclasses.replace(found, tokenizer=some.files(kind), metadata=name)


def with_json(checkpoint, change):
    raw = json.loads(checkpoint.tokenizer.tokenizer_json)
    raw = change(raw) or raw
    files = dataclasses.replace(checkpoint.tokenizer, tokenizer_json=json.dumps(raw).encode())
    return dataclasses.replace(checkpoint, tokenizer=files)


@pytest.mark.parametrize("kind", [*some.BYTE_LEVEL, *some.SENTENCEPIECE])
def test_a_tokenizer_comes_back_and_is_made_again(kind, tmp_path):
    source = model(kind)
    done = save_checkpoint(source, tmp_path / "m.gguf", encoding="f32")
    assert open_checkpoint(tmp_path / "m.gguf").tokenizer == source.tokenizer
    metadata = open_gguf_file(tmp_path / "m.gguf").metadata
    if kind in some.BYTE_LEVEL:
        assert metadata["tokenizer.ggml.pre"] == kind
        assert any("NFC" in warning for warning in done.warnings) == (kind == "qwen2")
    assert metadata["tokenizer.ggml.add_bos_token"] is (kind != "qwen2")
    assert metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{some.SIZE + 7}]"
    path = edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf")
    again = open_checkpoint(path)
    assert again.tokenizer.chat_template == source.tokenizer.chat_template
    ours, theirs = (Tokenizer.from_files(c.tokenizer) for c in (again, source))
    assert (ours.bos_id, ours.eos_ids) == (theirs.bos_id, theirs.eos_ids)
    assert set(theirs.special_tokens) == set(ours.special_tokens)
    assert any("one space more" in w for w in done.warnings) == (kind == METASPACE)
    for text in texts(kind):
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.encode(text, allow_special=True) == theirs.encode(text, allow_special=True)


def test_a_special_token_in_a_text_is_one_only_where_it_is_allowed(tmp_path):
    source = model("llama-bpe")
    save_checkpoint(source, tmp_path / "m.gguf", encoding="f32")
    again = open_checkpoint(edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf"))
    tokenizer = Tokenizer.from_files(again.tokenizer)
    assert tokenizer.encode("<|eot_id|>", allow_special=True) == [0, 2]
    assert len(tokenizer.encode("<|eot_id|>")) > 2


def test_the_template_that_engines_read_may_be_edited(tmp_path):
    source = model("gpt-2")
    files = dataclasses.replace(
        source.tokenizer, config={**source.tokenizer.config, "chat_template": "old"},
        chat_template="old",
    )  # fmt: skip
    save_checkpoint(dataclasses.replace(source, tokenizer=files), tmp_path / "m.gguf")
    edit.value(tmp_path / "m.gguf", "tokenizer.chat_template", ("string", "new"))
    found = open_checkpoint(tmp_path / "m.gguf").tokenizer
    assert found.chat_template == "new" == found.config["chat_template"]


def test_a_model_without_a_tokenizer_says_so(tmp_path):
    bare = dataclasses.replace(model("gpt-2"), tokenizer=None)
    done = save_checkpoint(bare, tmp_path / "m.gguf", encoding="f32")
    assert any("token ids only" in warning for warning in done.warnings)
    found = open_checkpoint(tmp_path / "m.gguf")
    assert found.tokenizer is None and found.spec == bare.spec
    assert any("no tokenizer" in warning for warning in found.warnings)


def lowercase(raw):
    raw["normalizer"] = {"type": "Lowercase"}


def prefix_space(raw):
    raw["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}


def no_cut(raw):
    raw["pre_tokenizer"] = None


def two_at_the_end(raw):
    end = {"SpecialToken": {"id": some.SPECIAL[1], "type_id": 0}}
    raw["post_processor"]["single"] += [end, end]
    raw["post_processor"]["special_tokens"] |= {
        some.SPECIAL[1]: {"id": some.SPECIAL[1], "ids": [1], "tokens": [some.SPECIAL[1]]}
    }


def another_first(raw):
    raw["post_processor"]["special_tokens"][some.SPECIAL[0]]["ids"] = [2]


def unigram(raw):
    raw["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]]}


def word_level(raw):
    raw["model"] = {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0}}


def too_many(raw):
    raw["model"]["vocab"]["zz"] = 5000


@pytest.mark.parametrize(
    "change,code",
    [
        (lowercase, "gguf.normalizer"),
        (prefix_space, "gguf.pre_tokenizer"),
        (no_cut, "gguf.pre_tokenizer"),
        (two_at_the_end, "gguf.tokenizer"),
        (another_first, "gguf.tokenizer"),
        (unigram, "gguf.tokenizer"),
        (word_level, "gguf.tokenizer"),
        (too_many, "gguf.tokenizer"),
    ],
)
def test_what_llama_cpp_would_do_otherwise_is_refused(change, code, tmp_path):
    with pytest.raises(CannotCreate) as caught:
        save_checkpoint(with_json(model("gpt-2"), change), tmp_path / "m.gguf", encoding="f32")
    assert caught.value.code == code and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key,value,words",
    [
        ("pre", None, "tokenizer.ggml.pre is missing"),
        ("pre", ("string", "default"), "is 'default'"),
        ("pre", ("string", "lama-bpe"), "is not known here"),
        ("model", ("string", "bert"), "of the model 'bert'"),
        ("tokens", ("[string]", ["a"]), "1 tokens for 648 rows"),
        ("tokens", ("string", "a"), "no list of texts"),
        ("tokens", ("[string]", ["a"] * 648), "a token stands twice"),
        ("token_type", ("[i32]", [1]), "token_type"),
        ("merges", None, "merges is no list"),
        ("merges", ("[string]", ["x yzz"]), "not there"),
        ("bos_token_id", ("u32", 5000), "outside the vocabulary"),
    ],
)
def test_a_file_of_others_whose_tokenizer_is_none(key, value, words, tmp_path):
    save_checkpoint(model("llama-bpe"), tmp_path / "m.gguf", encoding="f32")
    path = edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf")
    edit.value(path, f"tokenizer.ggml.{key}", value)
    with pytest.raises(BadData, match=words) as caught:
        open_checkpoint(path)
    assert caught.value.code in ("gguf.tokenizer", "gguf.pre_tokenizer", "config.value")


def test_other_names_of_one_cut_are_known(tmp_path):
    save_checkpoint(model("llama-bpe"), tmp_path / "m.gguf", encoding="f32")
    path = edit.without_ours(tmp_path / "m.gguf", tmp_path / "o.gguf")
    edit.value(path, "tokenizer.ggml.pre", ("string", "falcon3"))
    assert open_checkpoint(path).tokenizer is not None
    names = [name for row in PRE_TOKENIZERS for name in (row.name, *row.also)]
    assert len(set(names)) == len(names)


def named(kind, name):
    source = model(kind)
    metadata = {} if name is None else {"general.name": name}
    return dataclasses.replace(source, metadata=metadata)


@pytest.mark.parametrize(("kind", "name", "words"), [
    ("phi3", "A phi-3", None), ("phi3", "Small", "`</s>`, `<|user|>`"), ("llama", "Small", None),
    ("llama", None, None),
])  # fmt: skip
def test_white_space_that_llama_cpp_keeps_or_takes_by_a_models_name_is_said(
    kind, name, words, tmp_path
):
    done = save_checkpoint(named(kind, name), tmp_path / "m.gguf", encoding="f32")
    said = [warning for warning in done.warnings if "white space" in warning]
    assert len(said) == (words is not None) and all(words in warning for warning in said)


def test_a_name_with_which_llama_cpp_would_not_load_the_model_is_refused(tmp_path):
    with pytest.raises(CannotCreate, match="endoftext") as caught:
        save_checkpoint(named("llama", "My Phi-3"), tmp_path / "m.gguf", encoding="f32")
    assert caught.value.code == "gguf.model_name" and "general.name=" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "name"), [("phi3", "phi3 "), ("gpt-2", "phi 3 ")])
def test_a_name_made_up_for_a_phi3_is_one_that_its_tokenizer_fits(kind, name, tmp_path):
    spec = tiny_of("phi3", **made.IDS | some.ids(kind) | {"num_layers": 1})
    source = dataclasses.replace(made.model(spec), tokenizer=some.files(kind))
    done = save_checkpoint(source, tmp_path / "m.gguf", encoding="f32")
    assert open_gguf_file(tmp_path / "m.gguf").metadata["general.name"].startswith(name)
    assert not any("white space" in warning for warning in done.warnings)
    assert not open_checkpoint(tmp_path / "m.gguf").metadata


@pytest.mark.heavy
def test_llama_cpp_takes_the_white_space_of_models_called_phi3(tmp_path):
    from tests.formats.llama_cpp import ask

    text = "<|user|>\n a\n<|user|>  b</s> c<s> d"
    source = model("phi3")
    wanted = Tokenizer.from_files(source.tokenizer).encode(text, allow_special=True)
    paths = [tmp_path / f"{n}.gguf" for n in range(3)]
    save_checkpoint(source, paths[0], encoding="f32")
    save_checkpoint(named("phi3", "Small"), paths[1], encoding="f32")
    edit.value(paths[1], "general.name", ("string", "Small"))
    save_checkpoint(named("llama", "Small"), paths[2], encoding="f32")
    edit.value(paths[2], "general.name", ("string", "My Phi-3"))
    strips, keeps, fails = ask(paths, texts=[text], special=True)
    assert strips["tokens"] == [wanted] and keeps["tokens"] != [wanted] and "error" in fails


@pytest.mark.heavy
@pytest.mark.parametrize("kind", [*some.BYTE_LEVEL, *some.SENTENCEPIECE])
def test_llama_cpp_makes_the_same_tokens(kind, tmp_path):
    from tests.formats.llama_cpp import ask

    source = model(kind)
    save_checkpoint(source, tmp_path / "m.gguf", encoding="f32")
    (answer,) = ask([tmp_path / "m.gguf"], texts=texts(kind))
    tokenizer = Tokenizer.from_files(source.tokenizer)
    wanted = [tokenizer.encode(text) for text in texts(kind)]
    assert answer["tokens"] == wanted
