"""Every form of a `transformers` BitNet is read to the right trits and scales."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.open import open_checkpoint
from tests.formats.checkpoints import AUTO, BF16, BIT, OLD, ONLINE, TINY, config, tensors, write

UNEVEN = replace(TINY, intermediate_size=130)
UNTIED = replace(TINY, tie_embeddings=False)

# name -> (form, quantization_config, stored dtype, spec, encoding read)
FORMS = {
    "packed autobitlinear multiplies": ("auto", AUTO, BF16, TINY, "packed"),
    "packed bitlinear divides": ("bit", BIT, BF16, TINY, "packed"),
    "packed, no linear_class divides": ("bit", {}, BF16, TINY, "packed"),
    "packed, float32 scale": ("bit", BIT, np.float32, TINY, "packed"),
    "packed, rows no multiple of 4": ("auto", AUTO, BF16, UNEVEN, "packed"),
    "master bf16": ("master", ONLINE, BF16, TINY, "master"),
    "master f16": ("master", ONLINE, np.float16, TINY, "master"),
    "master f32, untied": ("master", ONLINE, np.float32, UNTIED, "master"),
    "dequantized, no quantization_config": ("dequantized", None, BF16, TINY, "dequantized"),
    "dequantized, offline": ("dequantized", BIT, np.float32, TINY, "dequantized"),
}


@pytest.mark.parametrize("name", FORMS)
def test_form(name, tmp_path):
    form, quantization, dtype, spec, encoding = FORMS[name]
    data, trits, scales = tensors(spec, form, dtype)
    model = open_checkpoint(write(tmp_path / "m", data, config(spec, quantization)))
    assert model.source.encoding == encoding
    for key, wanted in trits.items():
        found = model.read(key)
        found.verify(key)
        np.testing.assert_array_equal(found.trits(), wanted)
        limit = 2e-6 if form == "master" else 0  # the mean's additions come in another order
        assert abs(found.scale - scales[key]) <= limit * scales[key]
        assert model.entries[key].shape == found.shape
    for key in ("embed_tokens", "norm", "layers.0.mlp.ffn_sub_norm"):
        assert model.read(key).dtype == dtype == np.dtype(model.entries[key].dtype)


@pytest.mark.parametrize("form", ["float", "dequantized"])
def test_zeros_at_the_start_of_a_matrix_tell_nothing(form, tmp_path):
    data, _, _ = tensors(form="master" if form == "float" else form)
    name = next(n for n in data if n.endswith("layers.0.self_attn.q_proj.weight"))
    data[name] = np.zeros_like(data[name])
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=None)))
    assert model.source.encoding == form


def test_shards_single_file_and_a_shard_give_the_same(tmp_path):
    data, _, _ = tensors()
    one = write(tmp_path / "one", data, config(quantization=AUTO))
    three = write(tmp_path / "three", data, config(quantization=AUTO), shards=3)
    digest = open_checkpoint(one).digest()
    assert open_checkpoint(three).digest() == digest
    assert open_checkpoint(one / "model.safetensors").digest() == digest
    assert open_checkpoint(three / "model-00002-of-00003.safetensors").digest() == digest
    assert open_checkpoint(three / "model.safetensors.index.json").digest() == digest


@pytest.mark.parametrize("spelling", [{}, OLD], ids=["new", "old"])
def test_both_spellings_of_the_config(spelling, tmp_path):
    data, _, _ = tensors()
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=AUTO, **spelling)))
    assert model.spec.rope_theta == 10000.0
    assert model.entries["layers.0.mlp.up_proj"].dtype == "bfloat16"


def test_online_scale_of_ternary_floats_is_the_share_of_non_zeros_times_c(tmp_path):
    # The reference requantizes them: c * p, 31 % below c.
    data, trits, scales = tensors(form="dequantized")
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=ONLINE)))
    for name, wanted in trits.items():
        found = model.read(name)
        np.testing.assert_array_equal(found.trits(), wanted)
        share = np.count_nonzero(wanted) / wanted.size
        assert float(found.scale) == pytest.approx(share * scales[name], rel=1e-6)


def test_a_master_keeps_its_latent_weights_and_a_packed_file_has_none(tmp_path):
    data, _, _ = tensors(form="master")
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=ONLINE)))
    name = "layers.0.self_attn.q_proj"
    np.testing.assert_array_equal(
        model.latent()[name], data["model.layers.0.self_attn.q_proj.weight"]
    )
    packed = open_checkpoint(write(tmp_path / "p", tensors()[0], config(quantization=AUTO)))
    assert packed.entries[name].latent is None
    with pytest.raises(BadData):
        packed.latent()


def test_a_float_model_is_not_taken_for_ternary(tmp_path):
    data, _, _ = tensors(form="master")
    model = open_checkpoint(write(tmp_path / "m", data, config()))
    assert model.source.encoding == "float"
    assert not any(entry.ternary for entry in model.entries.values())


def test_float_weights_with_a_scale_multiply_it(tmp_path):
    # what AutoBitLinear computes when its weights were unpacked: {-1, 0, 1} * weight_scale
    data, trits, scales = tensors()
    name = "model.layers.0.mlp.up_proj.weight"
    data[name] = trits["layers.0.mlp.up_proj"].astype(BF16)
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=AUTO)))
    found = model.read("layers.0.mlp.up_proj")
    np.testing.assert_array_equal(found.trits(), trits["layers.0.mlp.up_proj"])
    assert found.scale == scales["layers.0.mlp.up_proj"]


def test_modules_to_not_convert_stay_float(tmp_path):
    data, _, _ = tensors()
    name = "model.layers.0.mlp.up_proj.weight"
    data[name] = np.random.default_rng(0).standard_normal((128, 64)).astype(BF16)
    del data[name + "_scale"]
    quantization = AUTO | {"modules_to_not_convert": ["model.layers.0.mlp.up_proj", "lm_head"]}
    model = open_checkpoint(write(tmp_path / "m", data, config(quantization=quantization)))
    assert not model.entries["layers.0.mlp.up_proj"].ternary
    assert model.entries["layers.0.mlp.gate_proj"].ternary


def test_the_end_of_generation_comes_from_generation_config(tmp_path):
    folder = write(tmp_path / "m", tensors()[0], config(quantization=AUTO))
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 265]}')
    assert open_checkpoint(folder).spec.eos_token_ids == (257, 265)


def test_auto_map_is_ignored_and_said(tmp_path):
    quirk = {"AutoModelForCausalLM": "evil.Model"}
    folder = write(tmp_path / "m", tensors()[0], config(quantization=AUTO, auto_map=quirk))
    (folder / "evil.py").write_text("open('canary', 'w')")
    model = open_checkpoint(folder)
    assert any("auto_map" in warning for warning in model.warnings)
    assert not (tmp_path / "canary").exists() and not (folder / "canary").exists()


def test_opening_reads_headers_only(tmp_path):
    data, _, _ = tensors()
    data["model.embed_tokens.weight"][:] = 1
    folder = write(tmp_path / "m", data, config(quantization=AUTO))
    path = folder / "model.safetensors"
    model = open_checkpoint(folder)
    raw = path.read_bytes()
    # Same inode, other content: what is read later comes from the file, not from memory.
    at = raw.index(np.ones(64, ml_dtypes.bfloat16).tobytes())
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"\0\0")
    assert model.read("embed_tokens").reshape(-1)[0] == 0
