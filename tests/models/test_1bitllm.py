"""1bitLLM's models against their forward, written in numpy from its description.

There is no such class in transformers: the code that defined it lay beside the checkpoints.
"""

import json

import numpy as np
import pytest
import safetensors.numpy

from bitnet_jax.core.errors import BadData, CannotCreate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.names import expected
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.resident import to_device
from tests.tiny import tiny_of

SPEC = tiny_of("bitnet-1bitllm", vocab_size=64, hidden_size=64, head_dim=16, rope_theta=10000.0)
CONFIG = {
    "architectures": ["BitnetForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "weight_bits": 1, "input_bits": 8, "vocab_size": 64, "hidden_size": 64,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": True,
    "torch_dtype": "float32",
}  # fmt: skip
IDS = np.random.default_rng(3).integers(0, 64, (2, 9))


def put(folder, data, **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    safetensors.numpy.save_file(data, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def weights(rng):
    def one(item):
        if len(item.shape) == 1:
            return rng.uniform(0.5, 1.5, item.shape).astype(np.float32)
        return (0.1 * rng.standard_normal(item.shape)).astype(np.float32)

    return {item.huggingface: one(item) for item in expected(SPEC).values()}


def reference(w, ids):
    """Logits [length, vocab] of one sequence: its own layers, line by line."""

    def norm(x, name):
        return w[name] * (x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(1e-5)))

    def linear(x, name):
        scale = np.float32(1) / max(np.abs(w[name]).mean(dtype=np.float32), np.float32(1e-5))
        trits = np.clip(np.rint(w[name] * scale), -1, 1)
        r = np.float32(127) / np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-5))
        return (np.clip(np.rint(x * r), -128, 127) @ trits.T) / scale / r

    def rotate(x):  # [length, heads, 16]
        angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(0, 16, 2) / 16)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., :8], x[..., 8:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(np.float32)

    x = w["model.embed_tokens.weight"][ids]
    for n in range(2):
        at = f"model.layers.{n}."
        y = norm(x, at + "input_layernorm.weight")
        q, k, v = (linear(y, at + f"self_attn.{p}_proj.weight") for p in "qkv")
        q, k = rotate(q.reshape(-1, 4, 16)), rotate(k.reshape(-1, 2, 16))
        k, v = np.repeat(k, 2, 1), np.repeat(v.reshape(-1, 2, 16), 2, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / 4
        scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", e / e.sum(-1, keepdims=True), v).reshape(len(ids), 64)
        y = norm(y.astype(np.float32), at + "self_attn.inner_attn_ln.weight")
        x = x + linear(y, at + "self_attn.o_proj.weight")
        y = norm(x, at + "post_attention_layernorm.weight")
        gate, up = (linear(y, at + f"mlp.{p}_proj.weight") for p in ("gate", "up"))
        y = norm(gate / (1 + np.exp(-gate)) * up, at + "mlp.ffn_layernorm.weight")
        x = x + linear(y, at + "mlp.down_proj.weight")
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T


def test_masters_are_quantized_at_load_as_its_own_code_does(weights, tmp_path):
    checkpoint = open_checkpoint(put(tmp_path / "m", weights))
    assert checkpoint.spec == SPEC and checkpoint.source.encoding == "master"
    engine = Engine(checkpoint.spec, to_device(checkpoint))
    found = engine.logits(IDS)
    for row in range(len(IDS)):
        want = reference(weights, IDS[row])
        assert np.abs(found[row] - want).max() <= 2e-5 * np.abs(want).max()


@pytest.mark.parametrize("encoding", ["master", "latent", "bitlinear"])
def test_what_we_write_is_spelled_as_it_was(weights, encoding, tmp_path):
    checkpoint = open_checkpoint(put(tmp_path / "m", weights))
    save_checkpoint(checkpoint, tmp_path / "n", format="huggingface", encoding=encoding)
    config = json.loads((tmp_path / "n/config.json").read_text())
    assert config["architectures"] == ["BitnetForCausalLM"] and config["weight_bits"] == 1
    # Its own code knows of no quantization_config: a loader that did would quantize twice.
    assert ("quantization_config" in config) is (encoding == "bitlinear")
    names = set(safetensors.numpy.load_file(tmp_path / "n/model.safetensors"))
    assert "model.layers.0.self_attn.inner_attn_ln.weight" in names
    again = open_checkpoint(tmp_path / "n")
    assert again.digest() == checkpoint.digest() and again.spec == SPEC


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"weight_bits": 2}, "config.unsupported", "weight_bits is 2"),
        ({"input_bits": 4}, "config.unsupported", "input_bits is 4"),
        ({"hidden_act": "relu2"}, "config.unsupported", "known: silu"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "config.unsupported", "rope_type"),
    ],
)
def test_a_config_that_means_another_model_is_refused(weights, changes, code, words, tmp_path):
    with pytest.raises(BadData) as caught:
        open_checkpoint(put(tmp_path / "m", weights, **changes))
    assert caught.value.code == code and words in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("norm", ["inner_attn_ln", "ffn_layernorm"])
def test_a_lost_sub_norm_is_refused(weights, norm, tmp_path):
    lost = {name: value for name, value in weights.items() if norm not in name}
    with pytest.raises(BadData, match=norm) as caught:
        open_checkpoint(put(tmp_path / "m", lost))
    assert caught.value.code == "model.missing_sub_norm"


def test_floats_are_not_written_into_an_architecture_that_would_quantize_them(weights, tmp_path):
    data = {"modules_to_not_convert": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                       "up_proj", "down_proj", "lm_head"]}  # fmt: skip
    quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear"} | data
    folder = put(
        tmp_path / "m", weights,
        quantization_config=quantization | {"quantization_mode": "online"},
    )  # fmt: skip
    checkpoint = open_checkpoint(folder)
    assert not any(entry.ternary for entry in checkpoint.entries.values())
    with pytest.raises(CannotCreate) as caught:
        save_checkpoint(checkpoint, tmp_path / "n", format="huggingface")
    assert caught.value.code == "huggingface.masters"
