"""Which file of a folder is the model: the same answer for a folder here and for one in a store."""

from __future__ import annotations

import pytest

from bitnet_jax.core.errors import BadData, BitnetError, NoInput
from bitnet_jax.formats.create import create
from bitnet_jax.formats.locate import locate
from bitnet_jax.formats.model_files import model_file
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from tests.stores.object_stores import STORES

CONFIG, INDEX, ONE = "config.json", "model.safetensors.index.json", "model.safetensors"


@pytest.mark.parametrize(
    ("names", "file"),
    [
        ([CONFIG, ONE, "other.safetensors"], ONE),
        ([CONFIG, INDEX, "model-00001-of-00001.safetensors"], INDEX),
        ([CONFIG, "lone.safetensors", "x.bitnet"], "lone.safetensors"),
        ([CONFIG, "x.bitnet"], "x.bitnet"),
        (["x.bitnet", ONE], "x.bitnet"),
        (["x.bitnet", "readme.txt"], "x.bitnet"),
        ([ONE], ONE),
        (["m.gguf", "README.md"], "m.gguf"),
        ([CONFIG, "m.onnx", "m.onnx.data"], "m.onnx"),
        ([CONFIG, ONE, "model.onnx", "m.gguf"], ONE),
        (["m.onnx", "m.gguf"], "m.gguf"),
    ],
)
def test_it_is_this_one(names, file):
    assert model_file(names, "d") == file
    assert model_file(names[::-1], "d") == file


@pytest.mark.parametrize(
    ("names", "kind", "code"),
    [
        ([], BadData, "huggingface.no_config"),
        (["readme.txt"], BadData, "huggingface.no_config"),
        ([CONFIG], NoInput, "huggingface.no_weights"),
        ([CONFIG, "a.safetensors", "b.safetensors"], BadData, "huggingface.which_file"),
        (["a.bitnet", "b.bitnet"], BadData, "file.which_model"),
        (["a.bitnet", "a.gguf"], BadData, "file.which_model"),
        (["decoder.onnx", "decoder_with_past.onnx"], BadData, "file.which_model"),
        (["a.pth"], BadData, "huggingface.pickle"),
        ([CONFIG, "pytorch_model.bin"], BadData, "huggingface.pickle"),
    ],
)
def test_none_is(names, kind, code):
    with pytest.raises(kind) as caught:
        model_file(names, "d")
    assert caught.value.code == code and caught.value.hint and "`d`" in caught.value.message


def outcome(address):
    try:
        return open_checkpoint(locate(address)).digest()
    except BitnetError as error:
        return error.code, error.exit_code


@pytest.mark.parametrize(
    "names",
    [
        ["readme.txt"],
        ["m.bitnet"],
        ["m.bitnet", "m.bitnet.txt"],
        ["m.bitnet", CONFIG],
        ["m.bitnet", ONE],
        ["m.bitnet", "n.bitnet"],
        [CONFIG],
        [CONFIG, INDEX],
        [CONFIG, "a.pth"],
        [ONE],
        [CONFIG, ONE],
    ],
)
def test_here_and_in_a_store_it_comes_to_the_same(names, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    store = STORES["memory"]()
    store.environment(monkeypatch)
    model = create("tiny", layers=1)
    save_checkpoint(model, tmp_path / "m.bitnet")
    save_checkpoint(model, tmp_path / "m.hf", format="huggingface")
    here = tmp_path / "here"
    here.mkdir()
    for name in names:
        of_model = tmp_path / "m.hf" / name
        data = b"x"
        if name.endswith(".bitnet"):
            data = (tmp_path / "m.bitnet").read_bytes()
        elif of_model.exists():
            data = of_model.read_bytes()
        elif name == INDEX:
            data = b'{"weight_map": {"x": "model-00001-of-00001.safetensors"}}'
        (here / name).write_bytes(data)
        store.put(f"b/{here.name}/{name}", data)
    assert outcome(str(here)) == outcome(f"{store.scheme}://b/{here.name}")


def test_a_folder_with_a_lone_file_of_any_format_is_that_model(tmp_path):
    (tmp_path / "out").mkdir()
    save_checkpoint(create("tiny"), tmp_path / "out" / "m.gguf", encoding="f32")
    found = open_checkpoint(tmp_path / "out")
    assert found.source.format == "gguf"
    assert found.digest() == open_checkpoint(tmp_path / "out" / "m.gguf").digest()
