"""Directories with one fault each: refused with a code, the place, and nothing run."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy

from bitnet_jax.core.errors import BadData, BitnetError, NoInput
from bitnet_jax.formats.open import open_checkpoint
from tests.formats.checkpoints import AUTO, BF16, ONLINE, config, tensors, write
from tests.hostile.files import PICKLE

Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.layers.0.mlp.ffn_sub_norm.weight"


def conf(**changes):
    """The fault is in config.json."""
    return lambda data, config: config.update(changes)


def quant(**changes):
    return lambda data, config: config["quantization_config"].update(changes)


def drop(name):
    return lambda data, config: data.pop(name)


def put(name, value):
    return lambda data, config: data.update({name: value})


# What is wrong -> (change, error code, words of the message or hint)
FAULTS = {
    "hidden_size 0": (conf(hidden_size=0), "config.value", "hidden_size"),
    "hidden_size negative": (conf(hidden_size=-64), "config.value", "-64"),
    "hidden_size a float": (conf(hidden_size=64.0), "config.value", "64.0"),
    "hidden_size true": (conf(hidden_size=True), "config.value", "True"),
    "hidden_size text": (conf(hidden_size="64"), "config.value", "'64'"),
    "hidden_size absurd": (conf(hidden_size=1 << 40), "config.value", "hidden_size"),
    "layers absurd": (conf(num_hidden_layers=10**9), "config.value", "num_layers"),
    "heads do not divide": (conf(num_attention_heads=3), "config.value", "multiple"),
    "kv heads do not divide": (conf(num_key_value_heads=3), "config.value", "multiple"),
    "kv heads text": (conf(num_key_value_heads="2"), "config.value", "num_kv_heads"),
    "vocab unlike the embedding": (conf(vocab_size=999), "model.tensor_shape", "512 rows"),
    "eps 0": (conf(rms_norm_eps=0), "config.value", "rms_norm_eps"),
    "eps text": (conf(rms_norm_eps="x"), "config.value", "rms_norm_eps"),
    "theta negative": (
        conf(rope_parameters={"rope_theta": -1.0}), "config.value", "rope_theta"),
    "rope yarn": (conf(rope_parameters={"rope_type": "yarn"}), "config.unsupported", "yarn"),
    "rope a list": (conf(rope_parameters=[1]), "config.value", "rope"),
    "activation": (conf(hidden_act="gelu"), "config.value", "gelu"),
    "activation a list": (conf(hidden_act=["relu2"]), "config.value", "relu2"),
    "bias": (conf(attention_bias=True), "config.unsupported", "bias"),
    "eos outside": (conf(eos_token_id=512), "config.value", "eos_token_id"),
    "eos text": (conf(eos_token_id=["a"]), "config.value", "eos_token_id"),
    "tie text": (conf(tie_word_embeddings="no"), "config.value", "tie_word_embeddings"),
    "architecture": (
        conf(architectures=["MambaForCausalLM"]), "model.unknown_architecture",
        "BitNetForCausalLM"),
    "architecture a dict": (
        conf(architectures=[{}], model_type=[]), "model.unknown_architecture", "known"),
    "quant method": (quant(quant_method="gptq"), "config.unsupported", "gptq"),
    "linear class": (quant(linear_class="linear"), "config.value", "never guessed"),
    "linear class a list": (quant(linear_class=[]), "config.value", "linear_class"),
    "mode": (quant(quantization_mode="both"), "config.value", "offline"),
    "use_rms_norm": (quant(use_rms_norm=True), "config.unsupported", "use_rms_norm"),
    "quantization a list": (conf(quantization_config=[]), "config.value", "quantization_config"),
    "pattern that never ends": (
        quant(modules_to_not_convert=["(a+)+$"]), "config.unsupported", "plain name"),
    "untied without a head": (
        conf(tie_word_embeddings=False), "model.missing_tensor", "tie_word_embeddings: true"),
    "sub-norm missing": (drop(NORM), "model.missing_sub_norm", "sub-norm"),
    "tensor missing": (drop(Q), "model.missing_tensor", "q_proj"),
    "scale missing": (drop(Q + "_scale"), "model.missing_scale", "q_proj"),
    "extra tensor": (
        put("model.layers.0.self_attn.q_prj.weight", np.zeros(3, "<f4")),
        "model.unknown_tensor", "q_proj"),
    "extra layer": (
        put("model.layers.1.input_layernorm.weight", np.zeros(64, "<f4")),
        "model.unknown_tensor", "layers.1"),
    "bias tensor": (
        put("model.layers.0.self_attn.q_proj.bias", np.zeros(64, "<f4")),
        "model.unknown_tensor", "bias"),
    "wrong shape": (put(NORM, np.zeros(127, "<f4")), "model.tensor_shape", "[127]"),
    "wrong packed shape": (put(Q, np.zeros((15, 64), "u1")), "model.tensor_shape", "[16, 64]"),
    "integer norm": (put(NORM, np.zeros(128, "<i4")), "model.tensor_dtype", "I32"),
    # found when the tensor is read
    "code 3": (put(Q, np.full((16, 64), 0x5D, "u1")), "huggingface.illegal_code", "[16, 0]"),
    "scale NaN": (put(Q + "_scale", np.array([np.nan], BF16)), "scale.invalid", "q_proj"),
    "scale 0": (put(Q + "_scale", np.array([0], BF16)), "scale.invalid", "q_proj"),
    "scale negative": (put(Q + "_scale", np.array([-1], BF16)), "scale.invalid", "q_proj"),
    "scale infinite": (put(Q + "_scale", np.array([np.inf], BF16)), "scale.invalid", "q_proj"),
    "scale denormal": (put(Q + "_scale", np.array([1e-40], "<f4")), "scale.invalid", "q_proj"),
    "two scales": (put(Q + "_scale", np.ones(2, BF16)), "huggingface.scale_shape", "[2]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_refused(fault, tmp_path):
    change, code, words = FAULTS[fault]
    data, _, _ = tensors()
    settings = config(quantization=AUTO)
    change(data, settings)
    write(tmp_path / "m", data, settings)
    with pytest.raises(BadData) as caught:
        open_checkpoint(tmp_path / "m").digest()
    error = caught.value
    assert error.code == code
    assert words in error.message + str(error.hint)
    assert len(error.message) < 900


def test_a_scale_whose_inverse_overflows_is_refused(tmp_path):
    data, _, _ = tensors(form="bit", dtype=np.dtype("<f4"))
    data[Q + "_scale"] = np.array([3e38], "<f4")
    write(tmp_path / "m", data, config(quantization={}))
    with pytest.raises(BadData) as caught:
        open_checkpoint(tmp_path / "m").digest()
    assert caught.value.code == "scale.invalid"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_master_with_a_weight_that_is_no_number(value, tmp_path):
    data, _, _ = tensors(form="master")
    data[Q][3, 5] = value
    write(tmp_path / "m", data, config(quantization=ONLINE))
    with pytest.raises(BadData, match=r"\[3, 5\]") as caught:
        open_checkpoint(tmp_path / "m").digest()
    assert caught.value.code == "tensor.not_finite"


def test_a_value_that_is_not_ternary_is_counted_and_located(tmp_path):
    data, _, scales = tensors(form="dequantized")
    data[Q][2, 1] = 0.25 * scales["layers.0.self_attn.q_proj"]
    write(tmp_path / "m", data, config(quantization={}))
    with pytest.raises(BadData, match=r"1 values .*\[2, 1\]") as caught:
        open_checkpoint(tmp_path / "m").digest()
    assert caught.value.code == "tensor.not_ternary" and "online" in caught.value.hint


CONFIG_FILES = {
    "empty": b"",
    "list": b"[]",
    "no json": b"{architectures",
    "duplicate key": b'{"hidden_size": 64, "hidden_size": 65}',
    "deep": b'{"a":' + b"[" * 100_000,
    "not utf-8": b'{"a": "\xff\xfe"}',
    "nan": b'{"rms_norm_eps": NaN}',
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_a_config_that_is_no_object(name, tmp_path):
    folder = write(tmp_path / "m", tensors()[0], {})
    (folder / "config.json").write_bytes(CONFIG_FILES[name])
    with pytest.raises(BadData):
        open_checkpoint(folder)


# ---------------------------------------------------------------------------- shards


def sharded(tmp_path):
    return write(tmp_path / "m", tensors()[0], config(quantization=AUTO), shards=3)


def reindexed(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_a_missing_shard_is_listed(tmp_path):
    folder = sharded(tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(NoInput, match="model-00002-of-00003") as caught:
        open_checkpoint(folder)
    assert caught.value.code == "huggingface.missing_shard"


def test_an_extra_shard_is_listed(tmp_path):
    folder = sharded(tmp_path)
    shutil.copy(folder / "model-00002-of-00003.safetensors",
                folder / "model-00004-of-00004.safetensors")  # fmt: skip
    with pytest.raises(BadData, match="model-00004-of-00004"):
        open_checkpoint(folder)


SHARD_PATHS = ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", 5, None,
               "a\\..\\b.safetensors", "\0.safetensors"]  # fmt: skip


@pytest.mark.parametrize("path", SHARD_PATHS)
def test_a_shard_path_that_leaves_the_folder(path, tmp_path):
    folder = sharded(tmp_path)
    shutil.copy(folder / "model-00001-of-00003.safetensors", tmp_path / "secret.safetensors")
    reindexed(folder, lambda weights: weights.update({Q: path}))
    with pytest.raises(BadData) as caught:
        open_checkpoint(folder)
    assert caught.value.code == "huggingface.shard_path"


def test_index_and_shards_that_disagree(tmp_path):
    folder = sharded(tmp_path)
    reindexed(folder, lambda weights: weights.update({"ghost": weights[Q]}))
    with pytest.raises(BadData, match="ghost"):
        open_checkpoint(folder)
    reindexed(folder, lambda weights: (weights.pop("ghost"), weights.pop(Q)))
    with pytest.raises(BadData, match="q_proj"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": []}', '{"weight_map": {}}', "x"])
def test_an_index_without_a_map(text, tmp_path):
    folder = sharded(tmp_path)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadData):
        open_checkpoint(folder)


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path):
    folder = sharded(tmp_path)
    shard = folder / "model-00001-of-00003.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to("../blob")
    open_checkpoint(folder).digest()


# --------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth"])
def test_a_pickle_is_never_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(quantization=AUTO)))
    (folder / name).write_bytes(PICKLE)
    for path in (folder, folder / name):
        with pytest.raises(BadData) as caught:
            open_checkpoint(path)
        assert caught.value.code in ("huggingface.pickle", "file.wrong_kind")
        assert "save" in caught.value.hint
    assert not (tmp_path / "canary").exists()


def test_folders_and_files_that_are_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    data, _, _ = tensors()
    safetensors.numpy.save_file(data, tmp_path / "lone.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "fifo")
    for name, error in (
        ("empty", BadData), ("lone.safetensors", BadData), ("notes.txt", BadData),
        ("fifo", BadData), ("none", NoInput), ("org/none", NoInput), ("notes.tx", NoInput),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            open_checkpoint(tmp_path / name if "/" not in name else name)
        assert isinstance(caught.value, BitnetError) and caught.value.hint
