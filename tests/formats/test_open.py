"""What a path is, is read from the file."""

from __future__ import annotations

import json

import pytest

from bitnet_jax.core.errors import BadData, NoInput
from bitnet_jax.formats.create import create
from bitnet_jax.formats.locate import locate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from tests.formats.checkpoints import AUTO, config, tensors, write


def test_a_suffix_says_nothing(tmp_path):
    model = create("tiny", layers=1)
    save_checkpoint(model, tmp_path / "model.safetensors", format="bitnet")
    assert open_checkpoint(tmp_path / "model.safetensors").source.format == "bitnet"


def test_a_directory_with_one_bitnet_file(tmp_path):
    model = create("tiny", layers=1)
    save_checkpoint(model, tmp_path / "m.bitnet")
    assert open_checkpoint(tmp_path).digest() == model.digest()
    (tmp_path / "n.bitnet").write_bytes((tmp_path / "m.bitnet").read_bytes())
    with pytest.raises(BadData, match="2 models"):
        open_checkpoint(tmp_path)


def test_a_config_names_its_directory(tmp_path):
    folder = write(tmp_path / "m", tensors()[0], config(quantization=AUTO))
    assert open_checkpoint(folder / "config.json").source.format == "huggingface"


def test_an_id_is_found_in_the_local_cache_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc\n")
    (folder / "snapshots").mkdir()
    write(folder / "snapshots" / "abc", tensors()[0], config(quantization=AUTO))
    assert locate("org/name").path == folder / "snapshots" / "abc"
    open_checkpoint("org/name").digest()
    with pytest.raises(NoInput):
        open_checkpoint("org/other")


def test_a_typo_in_a_path_names_the_neighbour(tmp_path):
    (tmp_path / "model.bitnet").touch()
    with pytest.raises(NoInput) as caught:
        open_checkpoint(tmp_path / "modle.bitnet")
    assert "model.bitnet" in caught.value.hint


def test_verify_off_lets_a_damaged_file_be_looked_at(tmp_path):
    path = tmp_path / "m.bitnet"
    save_checkpoint(create("tiny", layers=1), path)
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    row = json.loads(raw[8:start])["norm"]
    raw[start + row["data_offsets"][0]] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BadData, match="`norm`"):
        open_checkpoint(path).read("norm")
    open_checkpoint(path, verify=False).read("norm")
