"""Logits against `transformers` in float32 eager, by the parity rules of the contract.

The models are built, saved and run by `transformers` itself. `autobitlinear` packed
files cannot be loaded in float32 there, so their reference is the float32 model
holding the same trits and scales (its online form would quantize again).
"""

import json

import numpy as np
import pytest

from bitnet_jax.formats.huggingface_packing import pack as pack_huggingface
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.runtime.model import load
from bitnet_jax.runtime.sampling import SamplingParams
from bitnet_jax.workflows.parity import TINY_LIMIT, compare_logits

pytestmark = pytest.mark.heavy

SIZES = {
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=96),
    "deep": dict(hidden_size=128, intermediate_size=256, num_hidden_layers=8, vocab_size=512),
}


def config_of(size, quantization, **changes):
    from transformers import BitNetConfig

    return BitNetConfig(
        **SIZES[size] | changes,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        bos_token_id=0,
        eos_token_id=1,
        quantization_config=quantization,
    )


def float_model(size, **changes):
    """A float model by `transformers`, its weights and norms no longer at their defaults."""
    import torch
    from transformers import BitNetForCausalLM

    config = config_of(size, None, **changes)
    del config.quantization_config
    torch.manual_seed(0)
    model = BitNetForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(1 + 0.2 * torch.randn_like(value))
            elif "_proj" in name:
                value.normal_(0, 0.05)
    return model


def online_directory(tmp_path, size, **changes):
    """A master checkpoint: float weights, quantized by `transformers` at every forward."""
    model = float_model(size, **changes)
    model.save_pretrained(tmp_path / "master")
    path = tmp_path / "master" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
    }
    path.write_text(json.dumps(config))
    return tmp_path / "master"


def reference(path):
    """The model as `transformers` loads it, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval()


def reference_logits(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.as_tensor(tokens)).logits.float().numpy()


# One flipped int8 code reaches every later token of its row, and a float product of
# dequantized numbers (the reference's online form) flips about one code in 10^5. At 8 layers
# a row of 40 tokens is sure to meet one, a row of 2 is not: so deep models are compared on
# many short rows, where the median speaks of arithmetic and not of chaos.
ROWS = {"tiny": (2, 40), "deep": (48, 2)}


def tokens_for(size):
    return np.random.default_rng(0).integers(2, SIZES[size]["vocab_size"], ROWS[size])


def check(ours, theirs, size):
    parity = compare_logits(theirs, ours)
    assert parity.holds, parity
    if size == "tiny":
        assert parity.max_logit_difference <= TINY_LIMIT, parity


def steps(model, rows):
    """Logits of every position: a prefill of half, then one token at a time."""
    engine = model.engine
    step = engine.decode_executable(1, 64)
    zero = np.zeros(1, np.int32)
    out = []
    for row in rows:
        half = len(row) // 2
        logits, cache = engine.prefill(np.asarray(row[:half], np.int32), 64)
        out.append([np.asarray(logits)[0]])
        for at in range(half, len(row)):
            one = np.asarray([[row[at]]], np.int32)
            logits, cache, _ = step(model.packed, one, cache, np.asarray([at], np.int32), zero)
            out[-1].append(np.asarray(logits)[0])
    return np.asarray(out)


def check_both_ways(model, tokens, theirs, size):
    """Prefill of everything, and step by step through the KV cache."""
    check(model.logits(tokens), theirs, size)
    half = tokens.shape[1] // 2
    check(steps(model, tokens), theirs[:, half - 1 :], size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_master(tmp_path, size, tied):
    path = online_directory(tmp_path, size, tie_word_embeddings=tied)
    tokens = tokens_for(size)
    theirs = reference_logits(reference(path), tokens)
    check_both_ways(load(path), tokens, theirs, size)


@pytest.mark.parametrize("size", SIZES)
def test_bitlinear(tmp_path, size):
    source = online_directory(tmp_path, size)
    load(source).save(tmp_path / "packed", format="huggingface", encoding="bitlinear")
    tokens = tokens_for(size)
    theirs = reference_logits(reference(tmp_path / "packed"), tokens)
    check_both_ways(load(tmp_path / "packed"), tokens, theirs, size)


class FakeQuantized:
    """`transformers`' float32 model holding trits times scale, its linears quantizing x only."""

    def __init__(self, model, scales):
        import torch
        from torch import nn

        class Int8Activations(nn.Module):
            def __init__(self, trits, scale):
                super().__init__()
                self.trits, self.scale = trits, scale

            def forward(self, x):
                peak = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
                q = (x * (127 / peak)).round().clamp(-128, 127)
                return (q @ self.trits.T) * (self.scale * (peak / 127))

        for name, (trits, scale) in scales.items():
            parent, _, leaf = name.rpartition(".")
            module = Int8Activations(torch.as_tensor(trits).float(), float(scale))
            setattr(model.get_submodule(parent), leaf, module)
        self.model = model


@pytest.mark.parametrize("size", SIZES)
def test_autobitlinear(tmp_path, size):
    import torch
    from safetensors.torch import save_file

    model = float_model(size)
    rng = np.random.default_rng(1)
    tensors, scales = {}, {}
    for name, value in model.state_dict().items():
        if "_proj" not in name:
            tensors[name] = value.clone()
            continue
        trits = rng.integers(-1, 2, tuple(value.shape)).astype(np.int8)
        scale = torch.tensor(rng.uniform(0.02, 0.08), dtype=torch.bfloat16).reshape(1)
        tensors[name] = torch.as_tensor(pack_huggingface(trits))
        tensors[name.removesuffix("weight") + "weight_scale"] = scale
        scales[name.removesuffix(".weight")] = (trits, float(scale))
    tensors.pop("lm_head.weight", None)
    path = tmp_path / "auto"
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    quantization = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }
    config = model.config.to_dict() | {"quantization_config": quantization}
    config |= {"tie_word_embeddings": True, "architectures": ["BitNetForCausalLM"]}
    (path / "config.json").write_text(json.dumps(config))
    model.tie_weights()
    model.lm_head.weight = model.model.embed_tokens.weight
    tokens = tokens_for(size)
    theirs = reference_logits(FakeQuantized(model, scales).model, tokens)
    check_both_ways(load(path), tokens, theirs, size)


def test_per_layer_integers_and_outputs_equal(tmp_path):
    """Rule (a): the same input to one linear gives equal sums, outputs within 1e-6."""
    import torch

    path = online_directory(tmp_path, "tiny")
    model = reference(path)
    ours = load(path).packed.ternary()
    x = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    for name, linear in model.model.named_modules():
        if not name.endswith("_proj") or linear.in_features != 64:
            continue
        with torch.no_grad():
            theirs = linear(torch.as_tensor(x)).numpy()
        mine = np.asarray(ternary_matmul(x, ours[name]))
        assert np.abs(mine - theirs).max() <= 1e-6 * np.abs(theirs).max()


def linear_inputs(model, tokens):
    """What enters each linear of ours, in order of execution: [rows * length, in]."""
    import jax
    import jax.extend.core as jec

    from bitnet_jax.ir.interpreter import bind
    from bitnet_jax.ir.program import trace
    from bitnet_jax.models.families import family_of
    from bitnet_jax.passes.pack_weights import pack_weights

    seen = []

    def run(jaxpr, consts, args):
        env = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            values = [v.val if isinstance(v, jec.Literal) else env[v] for v in eqn.invars]
            inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
            if eqn.primitive.name == "ternary_matmul":
                seen.append(np.asarray(values[0])[0])
            if inner is not None:
                out = run(inner.jaxpr, inner.consts, values)
            else:
                out = bind(eqn, values)
            env.update(zip(eqn.outvars, out, strict=True))
        return [v.val if isinstance(v, jec.Literal) else env[v] for v in jaxpr.outvars]

    forward = family_of("bitnet").forward(model.spec)
    program = pack_weights(trace(forward, model.packed.float_avals(), tokens), model.packed)
    run(program.jaxpr.jaxpr, program.jaxpr.consts, [*jax.tree.leaves(model.packed), tokens])
    return seen


def test_every_code_that_differs_first_lies_at_a_half(tmp_path):
    """Rule (c): differences start as ties, not as mistakes."""
    import torch

    path = online_directory(tmp_path, "deep")
    tokens = np.random.default_rng(3).integers(2, 512, (64, 1)).astype(np.int32)
    model = reference(path)
    theirs = []
    for name, linear in model.model.named_modules():
        if name.endswith("_proj"):
            linear.register_forward_hook(
                lambda module, args, out: theirs.append(args[0].reshape(64, -1).numpy())
            )
    with torch.no_grad():
        model(torch.as_tensor(tokens, dtype=torch.long))
    ours = linear_inputs(load(path), tokens)
    assert len(ours) == len(theirs) == 7 * 8
    flipped = np.zeros(64, bool)  # rows that have met a difference already
    first = 0
    for mine, other in zip(ours, theirs, strict=True):
        ratio = mine * (127 / np.abs(mine).max(-1, keepdims=True))
        reference_ratio = other * (127 / np.abs(other).max(-1, keepdims=True))
        differs = np.rint(ratio) != np.rint(reference_ratio)
        for row in np.flatnonzero(differs.any(-1) & ~flipped):
            at = ratio[row][differs[row]]
            assert np.abs(np.abs(at - np.trunc(at)) - 0.5).max() < 1e-4
            first += 1
        flipped |= differs.any(-1)
    assert 0 < first < 64, "the case must show some flips, and rows without any"


def test_greedy_text_equals(tmp_path):
    import torch

    path = online_directory(tmp_path, "tiny")
    prompt = tokens_for("tiny")[0][:7]
    with torch.no_grad():
        theirs = reference(path).generate(
            torch.as_tensor(prompt[None]), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
    ours = list(load(path).engine.generate(prompt, SamplingParams(max_tokens=20)))
    assert ours == theirs[0, 7:].tolist()
