"""One safetensors file with its config beside it, in a folder that may hold other things."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.numpy

from bitnet_jax.core.errors import CannotCreate, UsageError
from bitnet_jax.formats.create import create
from bitnet_jax.formats.huggingface_encoding import ENCODINGS
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import format_of, save_checkpoint
from bitnet_jax.models.names import expected


@pytest.fixture(scope="module")
def model():
    return create("tiny", layers=1)


def test_every_reader_of_safetensors_opens_it_and_ours_reads_it_back(model, tmp_path):
    path = tmp_path / "own-name.safetensors"
    saved = save_checkpoint(model, path)
    assert saved.format == "safetensors" and saved.outputs[0] == path
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in saved.outputs}
    assert {"config.json", "tokenizer.json"} <= {file.name for file in saved.outputs}
    with safetensors.safe_open(path, "numpy") as file:
        assert {item.huggingface for item in expected(model.spec).values()} <= set(file.keys())
    found = open_checkpoint(path)
    assert found.digest() == model.digest() and found.spec == model.spec
    assert found.tokenizer.tokenizer_json == model.tokenizer.tokenizer_json


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e not in ("float", "dequantized")])
def test_each_encoding_is_that_of_the_huggingface_format(model, tmp_path, encoding):
    if encoding == "latent":
        model = create("tiny", layers=1, seed=1)
        if any(e.ternary and e.latent is None for e in model.entries.values()):
            with pytest.raises(CannotCreate) as caught:
                save_checkpoint(model, tmp_path / "m.safetensors", encoding=encoding)
            assert caught.value.code == "huggingface.no_latent"
            return
    save_checkpoint(model, tmp_path / "m.safetensors", encoding=encoding)
    save_checkpoint(model, tmp_path / "m.hf", encoding=encoding)
    one, other = (
        safetensors.numpy.load_file(file)
        for file in (tmp_path / "m.safetensors", tmp_path / "m.hf" / "model.safetensors")
    )
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    configs = [json.loads((p / "config.json").read_text()) for p in (tmp_path, tmp_path / "m.hf")]
    assert configs[0] == configs[1]


def test_a_wrong_encoding_is_told_with_those_that_fit(model, tmp_path):
    with pytest.raises(UsageError) as caught:
        save_checkpoint(model, tmp_path / "m.safetensors", encoding="tq2_0")
    assert caught.value.code == "format.encoding"
    assert "safetensors" in caught.value.message and "bitlinear" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_config_of_something_else_is_not_replaced(model, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CannotCreate) as caught:
        save_checkpoint(model, tmp_path / "m.safetensors")
    assert caught.value.code == "io.exists"
    save_checkpoint(model, tmp_path / "m.safetensors", force=True)
    assert open_checkpoint(tmp_path / "m.safetensors").digest() == model.digest()
    save_checkpoint(model, tmp_path / "m.safetensors", force=True, encoding="master")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CannotCreate) as caught:  # of the model beside it: not even with --force
        save_checkpoint(model, tmp_path / "n.safetensors", force=True)
    assert caught.value.code == "safetensors.shared_folder"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_fails_its_proof_leaves_nothing(model, tmp_path):
    def prove(written, saved):
        assert open_checkpoint(written).digest() == model.digest()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        save_checkpoint(model, tmp_path / "m.safetensors", prove=prove)
    assert not list(tmp_path.iterdir())


def test_the_suffix_implies_it(tmp_path):
    assert format_of(tmp_path / "m.safetensors") == "safetensors"
    assert format_of(tmp_path / "m.stablehlo") == "stablehlo"
