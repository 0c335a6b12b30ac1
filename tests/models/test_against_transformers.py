"""Each family against the model of `transformers`: float, ternary, prefill and token by token.

Everything in eager float32: the reference's other dtypes differ among themselves.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.runtime.resident import to_device
from bitnet_jax.runtime.sampling import SamplingParams
from bitnet_jax.workflows.parity import MEDIAN_LIMIT, compare_logits

pytestmark = [
    pytest.mark.heavy,
    # transformers' and torch's own, at import and at load
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]

SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
BIASES = {"attention_bias": True, "mlp_bias": True}

# name: (config class, its changes, our family)
CASES = {
    "llama": ("LlamaConfig", {}, "llama"),
    "llama, head_dim, linear rope": (
        "LlamaConfig", {"head_dim": 32, "rope_parameters": LINEAR}, "llama"),
    "llama, biases, tied, llama3 rope": (
        "LlamaConfig", BIASES | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}, "llama"),
    "mistral, a window": ("MistralConfig", {"sliding_window": 5}, "mistral"),
    "mistral, no window": ("MistralConfig", {"sliding_window": None}, "mistral"),
    "qwen2": ("Qwen2Config", {}, "qwen2"),
    "qwen2, a window above layer 1": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "qwen2"),
    "qwen3": ("Qwen3Config", {"head_dim": 16}, "qwen3"),
    "gemma": ("GemmaConfig", {"head_dim": 16}, "gemma"),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 9, "num_hidden_layers": 7},
        "gemma3"),
    "phi": ("PhiConfig", {}, "phi"),
    "phi3": ("Phi3Config", {"sliding_window": 6}, "phi3"),
    "phi3, part of each head turned": ("Phi3Config", {"partial_rotary_factor": 0.5}, "phi3"),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 4}, "smollm3"),
}  # fmt: skip
EVERY = pytest.mark.parametrize("case", CASES)
# One of each kind of block: what is ternary goes through the same code.
TERNARY = pytest.mark.parametrize(
    "case",
    ["llama", "llama, biases, tied, llama3 rope", "mistral, a window", "qwen2", "qwen3", "gemma",
     "gemma3", "phi", "phi3", "smollm3"],
)  # fmt: skip
# Short rows, and several: a code that a last bit flips reaches all later tokens of its row.
IDS = np.random.default_rng(0).integers(3, 512, (9, 8))


@pytest.fixture(scope="module")
def hf():
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def made(hf, case, path: Path):
    """A random model of the case, written by transformers; every parameter matters."""
    torch, transformers = hf
    kind, changes, _ = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SIZES | changes)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for value in model.parameters():
        value.data = value.data + 0.2 * torch.randn_like(value) if value.ndim == 1 else value * 4
    model.save_pretrained(path)
    return model


def loaded(hf, path: Path):
    _, transformers = hf
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, dtype="float32"
    )
    assert not any(info.values()), info
    return model.eval()


def theirs(hf, model, ids=IDS):
    torch, _ = hf
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.float().numpy()


def engine_of(path: Path):
    checkpoint = open_checkpoint(path)
    return checkpoint, Engine(checkpoint.spec, to_device(checkpoint))


def close(found, wanted):
    """Float: nothing is rounded to a code, so every logit agrees."""
    assert np.abs(found - wanted).max() <= 3e-6 * np.abs(wanted).max()


def alike(found, wanted):
    """Ternary: the parity rules (docs/decisions/0002), (b), for the model of another library."""
    parity = compare_logits(wanted, found)
    assert parity.median_logit_difference <= MEDIAN_LIMIT, parity
    assert parity.max_logit_difference <= 0.05 and parity.top1_agreement >= 0.95, parity


def check(hf, model, engine, agree=alike):
    """Prefill, and greedy decoding step by step through the cache, past every window."""
    agree(engine.logits(IDS), theirs(hf, model))
    made = list(engine.generate(IDS[0, :3], SamplingParams(max_tokens=9)))
    whole = theirs(hf, model, np.concatenate([IDS[0, :3], made[:-1]])[None])[0, 2:]
    best = np.sort(whole, axis=-1)
    sure = best[:, -1] - best[:, -2] > (1e-3 if agree is close else 0.01) * np.abs(whole).max()
    assert sure.sum() >= 3
    np.testing.assert_array_equal(np.asarray(made)[sure], whole.argmax(-1)[sure])


@EVERY
def test_a_float_model(hf, case, tmp_path):
    model = made(hf, case, tmp_path / "m")
    checkpoint, engine = engine_of(tmp_path / "m")
    assert checkpoint.spec.family == CASES[case][2] and checkpoint.source.encoding == "float"
    check(hf, model, engine, close)
    # There and back: through .bitnet to what transformers loads, the same to the bit.
    save_checkpoint(checkpoint, tmp_path / "m.bitnet")
    native = open_checkpoint(tmp_path / "m.bitnet")
    assert native.spec == checkpoint.spec
    save_checkpoint(native, tmp_path / "again", format="huggingface")
    np.testing.assert_array_equal(theirs(hf, loaded(hf, tmp_path / "again")), theirs(hf, model))


def quantized(path: Path, **keys):
    """Writes a `quantization_config` into a model's config."""
    file = path / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {"quant_method": "bitnet", **keys}
    file.write_text(json.dumps(config))


ONLINE = {"linear_class": "autobitlinear", "quantization_mode": "online"}


@TERNARY
def test_masters_that_the_reference_quantizes_at_load(hf, case, tmp_path):
    made(hf, case, tmp_path / "m")
    quantized(tmp_path / "m", **ONLINE)
    checkpoint, engine = engine_of(tmp_path / "m")
    assert checkpoint.source.encoding == "master"
    assert any(entry.ternary for entry in checkpoint.entries.values())
    check(hf, loaded(hf, tmp_path / "m"), engine)


@TERNARY
def test_what_we_write_is_computed_alike_by_transformers(hf, case, tmp_path):
    made(hf, case, tmp_path / "s")
    quantized(tmp_path / "s", **ONLINE)
    source = open_checkpoint(tmp_path / "s")
    wanted = Engine(source.spec, to_device(source)).logits(IDS)
    biased = any(name.endswith("_proj.bias") for name in source.entries)
    for encoding in ("bitlinear", "master", *(() if biased else ("autobitlinear",))):
        folder = tmp_path / encoding
        save_checkpoint(source, folder, format="huggingface", encoding=encoding)
        assert open_checkpoint(folder).digest() == source.digest()
        alike(theirs(hf, loaded(hf, folder)), wanted)


def test_a_bias_of_a_packed_autobitlinear_is_multiplied_by_its_scale(hf, tmp_path):
    """The reference adds the bias before it multiplies: y = (x W + b) * weight_scale."""
    import safetensors.numpy

    made(hf, "qwen2", tmp_path / "s")
    quantized(tmp_path / "s", **ONLINE)
    save_checkpoint(
        open_checkpoint(tmp_path / "s"), tmp_path / "m", format="huggingface", encoding="bitlinear"
    )
    # The same codes and biases under the other class: another model.
    file = tmp_path / "m/model.safetensors"
    data = safetensors.numpy.load_file(file)
    for name in data:
        if name.endswith(".weight_scale"):
            data[name] = np.float32(1) / data[name].astype(np.float32)
    safetensors.numpy.save_file(data, file, {"format": "pt"})
    quantized(tmp_path / "m", linear_class="autobitlinear", quantization_mode="offline")
    _, engine = engine_of(tmp_path / "m")
    check(hf, loaded(hf, tmp_path / "m"), engine)


def packed_llama(hf, path: Path, **keys) -> None:
    """A Llama with packed linears and a norm in each, written by transformers itself."""
    torch, transformers = hf
    from transformers.integrations.bitnet import pack_weights

    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        **SIZES, quantization_config={"quant_method": "bitnet", **keys}
    )
    from transformers import BitNetQuantConfig
    from transformers.integrations.bitnet import replace_with_bitnet_linear

    model = transformers.LlamaForCausalLM(config).float()
    model = replace_with_bitnet_linear(model, ["lm_head"], BitNetQuantConfig(**keys))
    model = model.to_empty(device="cpu")
    rng = np.random.default_rng(0)
    for name, value in model.state_dict().items():
        if value.dtype == torch.uint8:
            trits = torch.tensor(rng.integers(-1, 2, (4 * value.shape[0], value.shape[1])))
            value.copy_(pack_weights(trits.to(torch.int8)))
        elif name.endswith("weight_scale"):
            value.copy_(torch.tensor(rng.uniform(5, 20)))  # 1/mean: bitlinear divides
        else:
            spread = 0.2 if value.ndim == 1 else 0.5
            value.copy_(torch.tensor(rng.normal(value.ndim == 1, spread, value.shape)))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    path.mkdir()
    from safetensors.torch import save_file

    save_file(state, path / "model.safetensors", {"format": "pt"})
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = "float32"
    config.save_pretrained(path)


@pytest.mark.parametrize(
    "keys", [{}, {"use_rms_norm": True}, {"use_rms_norm": True, "rms_norm_eps": 1e-3}], ids=str
)
def test_the_llama_of_a_default_quantization_config(hf, keys, tmp_path):
    """Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E: `bitlinear`, whose weight_scale divides."""
    packed_llama(hf, tmp_path / "m", **keys)
    checkpoint, engine = engine_of(tmp_path / "m")
    assert checkpoint.source.detail["linear_class"] == "bitlinear"
    assert ("layers.0.mlp.up_proj.rms_norm" in checkpoint.entries) is bool(keys)
    model = loaded(hf, tmp_path / "m")
    check(hf, model, engine)
    for encoding in ("bitlinear", "autobitlinear", "master"):
        save_checkpoint(checkpoint, tmp_path / encoding, format="huggingface", encoding=encoding)
        alike(theirs(hf, loaded(hf, tmp_path / encoding)), theirs(hf, model))
        again = open_checkpoint(tmp_path / encoding)
        assert again.digest() == checkpoint.digest() and again.spec == checkpoint.spec


def test_norms_inside_linears_that_the_file_has_not_are_ones(hf, tmp_path):
    torch, transformers = hf
    packed_llama(hf, tmp_path / "m")
    quantized(tmp_path / "m", use_rms_norm=True)
    checkpoint, engine = engine_of(tmp_path / "m")
    assert any("lacks 14 of 14 norms inside" in warning for warning in checkpoint.warnings)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", output_loading_info=True, dtype="float32"
    )
    assert len(info["missing_keys"]) == 14
    check(hf, model.eval(), engine)


@pytest.mark.parametrize("case", ["qwen3", "gemma", "phi3"])
def test_a_float_source_can_be_trained_to_ternary(hf, case, tmp_path):
    import jax
    import jax.numpy as jnp

    from bitnet_jax.models.families import family_for
    from bitnet_jax.passes.transform import ternarize

    made(hf, case, tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    family = family_for(checkpoint.spec)
    params = {name: jnp.asarray(value) for name, value in checkpoint.latent().items()}
    qat = ternarize(family.forward(checkpoint.spec), family.rules, "qat")
    tokens = jnp.asarray(IDS)

    def loss(params):
        logits = jax.nn.log_softmax(qat(params, tokens[:, :-1], lam=1.0))
        return -jnp.take_along_axis(logits, tokens[:, 1:, None], -1).mean()

    step = jax.jit(jax.value_and_grad(loss))
    first, gradients = step(params)
    for _ in range(8):
        params = {name: value - 0.05 * gradients[name] for name, value in params.items()}
        last, gradients = step(params)
    assert last < first
    assert not any(isinstance(value, QuantTensor) for value in params.values())
