"""The flagship's twin: names, dtypes, spelling, tokenizer and traps of the real one."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import tokenizers

from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.core.errors import UsageError
from bitnet_jax.formats.create import create, save_created
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.shapes import shape
from bitnet_jax.models.families import shapes


def test_headers_and_config_of_the_released_model(tmp_path):
    model = create("bitnet-2b-4t", layers=1, vocab_size=1024)
    save_created(model, tmp_path / "m")
    file = open_safetensors(tmp_path / "m" / "model.safetensors")
    rows = {name: (info.dtype, list(info.shape)) for name, info in file.tensors.items()}
    layer = "model.layers.0."
    assert rows[layer + "self_attn.q_proj.weight"] == ("U8", [640, 2560])
    assert rows[layer + "self_attn.v_proj.weight"] == ("U8", [160, 2560])
    assert rows[layer + "mlp.up_proj.weight"] == ("U8", [1728, 2560])
    assert rows[layer + "mlp.down_proj.weight"] == ("U8", [640, 6912])
    assert rows[layer + "mlp.down_proj.weight_scale"] == ("BF16", [1])
    assert rows[layer + "mlp.ffn_sub_norm.weight"] == ("BF16", [6912])
    assert rows["model.embed_tokens.weight"] == ("BF16", [1024, 2560])
    assert "lm_head.weight" not in rows and len(rows) == 2 + 4 + 7 * 2
    assert file.metadata == {"format": "pt"}
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["rope_theta"] == 500000.0
    assert "rope_parameters" not in config and "dtype" not in config
    assert "AutoModelForCausalLM" in config["auto_map"]
    assert config["quantization_config"] == {
        "linear_class": "autobitlinear",
        "quant_method": "bitnet",
        "quantization_mode": "offline",
    }


def test_packed_and_master_hold_the_same_trits(tmp_path):
    for encoding in ("packed", "master"):
        save_created(create("tiny", seed=3), tmp_path / encoding, encoding=encoding)
    packed, master = (open_checkpoint(tmp_path / name) for name in ("packed", "master"))
    assert packed.source.encoding == "packed" and master.source.encoding == "master"
    assert packed.digest().trits == master.digest().trits
    assert packed.digest() == create("tiny", seed=3).digest()
    assert packed.digest() != create("tiny", seed=4).digest()
    for name, entry in packed.entries.items():
        if entry.ternary:
            scales = [model.read(name).scale for model in (packed, master)]
            assert scales[0] == pytest.approx(float(scales[1]), rel=0.05)


@pytest.mark.parametrize("vocab_size", [272, 512, 1024, 5000, 128256])
def test_the_tokenizer_has_exactly_the_vocabulary(vocab_size):
    model = create("bitnet-2b-4t", layers=1, vocab_size=vocab_size)
    tokenizer = tokenizers.Tokenizer.from_str(model.tokenizer.tokenizer_json.decode())
    assert tokenizer.get_vocab_size() == vocab_size
    assert set(tokenizer.get_vocab().values()) == set(range(vocab_size))
    spec = model.spec
    assert tokenizer.token_to_id("<|begin_of_text|>") == spec.bos_token_id
    assert tokenizer.token_to_id("<|eot_id|>") == spec.eos_token_ids[1]
    text = "Hello, wörld 1234!\n\n  It's 東京 😀"
    ids = tokenizer.encode(text).ids
    assert ids[0] == spec.bos_token_id
    assert tokenizer.decode(ids) == text


def test_ids_of_the_released_vocabulary():
    spec = shape("bitnet-2b-4t")
    assert (spec.vocab_size, spec.bos_token_id, spec.eos_token_ids) == (
        128256, 128000, (128001, 128009))  # fmt: skip


def test_sub_norms_hold_values_that_float16_loses():
    value = create("tiny").read("layers.0.self_attn.attn_sub_norm")
    assert value.dtype == ml_dtypes.bfloat16
    tiny = np.abs(value.astype(np.float32)) < 1e-30
    assert tiny.any() and (value != 0).all() and not tiny.all()
    assert (value.astype(np.float16) == 0).sum() == tiny.sum()


def test_every_named_shape_is_valid_and_its_rows_pack():
    for name, spec in shapes(packages=False).items():
        found = shape(name)
        ids = {"bos_token_id": found.bos_token_id, "eos_token_ids": found.eos_token_ids}
        assert replace(spec, **ids) == found  # its own, where it has any
        assert spec.bos_token_id in (None, found.bos_token_id)
        assert spec.hidden_size % 4 == 0 and spec.intermediate_size % 4 == 0


@pytest.mark.parametrize(
    ("name", "stored"), [("llama-tiny", "bitlinear"), ("1bitllm-large", "latent")]
)
def test_a_shape_of_another_family_is_stored_as_its_released_models_are(name, stored, tmp_path):
    made = create(name, layers=1, vocab_size=512)
    save_created(made, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    quantization = config.get("quantization_config")
    assert (quantization or {}).get("linear_class") == (None if stored == "latent" else stored)
    assert open_checkpoint(tmp_path / "m").digest().trits == made.digest().trits


@pytest.mark.parametrize(
    "options",
    [{"name": "huge"}, {"layers": 0}, {"vocab_size": 100}, {"defect": "all"}],
    ids=str,
)
def test_what_cannot_be_made(options):
    with pytest.raises(UsageError):
        create(**({"name": "tiny"} | options))


def test_a_master_has_no_scale_to_invert(tmp_path):
    with pytest.raises(UsageError):
        save_created(create("tiny", defect="inverted_scale"), tmp_path / "m", encoding="master")
