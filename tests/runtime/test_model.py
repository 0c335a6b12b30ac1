"""`Model`: text in, text out, from any format, with the digest of the live buffers."""

import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError
from bitnet_jax.formats.create import create, save_created


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny.hf"
    save_created(create("tiny"), folder)
    return folder


@pytest.fixture(scope="module")
def model(path):
    return bj.load(path)


def test_generate_streams_what_it_returns(model):
    pieces = []
    made = model.generate("hello", max_tokens=12, stream=pieces.append)
    assert "".join(pieces) == made.text
    assert made.prompt_tokens >= 5
    assert made.finish in ("length", "eos")
    assert len(made.tokens) == 12 or made.finish == "eos"


def test_token_ids_are_a_prompt_too(model):
    ids = model.tokenizer.encode("hello")
    assert model.generate(ids, max_tokens=5).tokens == model.generate("hello", max_tokens=5).tokens


def test_a_stop_string_ends_the_text_before_itself(model):
    whole = model.generate("hello", max_tokens=30).text
    stop = whole[4:6]
    made = model.generate("hello", max_tokens=30, stop=stop)
    assert made.text == whole[: whole.find(stop)]
    assert made.finish == "stop"


def test_chat_answers_by_the_template(model):
    made = model.chat([{"role": "user", "content": "hi"}], max_tokens=4)
    assert made.prompt_tokens > len(model.tokenizer.encode("hi"))
    assert len(made.tokens) <= 4


def test_every_format_is_the_same_model(model, path, tmp_path):
    tokens = np.arange(24).reshape(2, 12)
    logits = model.logits(tokens)
    for name, encoding in [
        ("bitnet", None),
        ("huggingface", "master"),
        ("huggingface", "bitlinear"),
    ]:
        target = tmp_path / f"{name}-{encoding}"
        model.save(target, format=name, encoding=encoding)
        again = bj.load(target)
        assert again.digest == model.digest == bj.digest(target)
        np.testing.assert_array_equal(again.logits(tokens), logits)


def test_both_layouts_are_the_same_model_to_the_bit(model, path):
    dense = bj.load(path, layout="t1.16x20")
    assert {tensor.layout for tensor in dense.packed.ternary().values()} == {"t1.16x20"}
    assert dense.digest == model.digest
    for length in (1, 9):
        tokens = np.arange(length)[None] % model.spec.vocab_size
        np.testing.assert_array_equal(dense.logits(tokens), model.logits(tokens))
    assert dense.generate("hello", max_tokens=6).text == model.generate("hello", max_tokens=6).text
    with pytest.raises(UsageError, match="no layout of ternary weights") as caught:
        bj.load(path, layout="i8.rows")
    assert caught.value.code == "tensor.layout_unknown"


def test_sampling_parameters_are_checked(model):
    with pytest.raises(UsageError, match="temperature"):
        model.generate("x", temperature=-1)
    with pytest.raises(UsageError, match="max_tokens"):
        model.generate("x", max_tokens=0)


def test_a_model_without_tokenizer_takes_ids_for_logits_and_says_so_for_text(path, tmp_path):
    import shutil

    copy = tmp_path / "bare"
    shutil.copytree(path, copy)
    for file in copy.glob("*token*"):
        file.unlink()
    bare = bj.load(copy)
    assert bare.logits([[1, 2, 3]]).shape == (1, 3, 512)
    made = bare.generate([1, 2, 3], max_tokens=4)
    assert made.text == "" and 1 <= len(made.tokens) <= 4
    with pytest.raises(UsageError, match="no tokenizer"):
        bare.generate("x")
