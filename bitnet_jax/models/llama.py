"""The Llama architecture (`LlamaForCausalLM`): float, or ternary as it is.

RMSNorm before attention and feed-forward, rotary positions (plain, linear or those of Llama
3.1), grouped-query attention, SiLU gate, biases where the config says so. Its ternary
models (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E) have no sub-norms; with
`use_rms_norm` of `quantization_config` there is a norm inside each linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import config_keys, rope, rows
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.huggingface import HuggingFace
from bitnet_jax.models.linear_norms import LINEAR_NORMS, linear_norm_eps, read_linear_norms

ARCHITECTURE = "LlamaForCausalLM"

_BIASED = (*rows.QKV, *rows.OUT)

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.OUT,
    *rows.biases(_BIASED, "extra.attention_bias"),
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.biases((*rows.GATE_UP, *rows.DOWN), "extra.mlp_bias"),
    *rows.linear_norms(rows.LINEARS, "extra.linear_norms"),
    *rows.FINAL_NORM,
    *rows.HEAD,
)
# The spec's names of activations, by the config's.
_ACTIVATIONS = {"silu": "silu"}
_UNSAID = {"attention_bias": False, "mlp_bias": False}


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    attention_bias = bool(spec.extra["attention_bias"])
    return Design(
        (Layer(spec.rope_theta, rope.scaling_of(spec)),),
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=bool(spec.extra["mlp_bias"]),
        linear_norm_eps=linear_norm_eps(spec),
    )


def _read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    theta, scaling = rope.read_rope(raw, where, 10000.0)
    flags = {key: config_keys.boolean(raw, key, where) for key in _UNSAID}
    return config_keys.read_sizes(raw, where, 2048) | {
        "rope_theta": theta,
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "activation": config_keys.activation(raw, where, _ACTIVATIONS, "silu", "hidden_act"),
        "tie_embeddings": config_keys.boolean(raw, "tie_word_embeddings", where),
        "extra": scaling | flags | read_linear_norms(raw, where),
    }


def _write(spec: ModelSpec, old: bool) -> dict[str, Any]:
    return (
        config_keys.write_sizes(spec)
        | {key: spec.extra[key] for key in _UNSAID}
        | rope.write_rope(spec, old)
        | {
            "hidden_act": spec.activation,
            "initializer_range": 0.02,
            "rms_norm_eps": spec.rms_norm_eps,
            "tie_word_embeddings": spec.tie_embeddings,
        }
    )


FAMILY = Family(
    api=API,
    name="llama",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=rope.FIELDS | _UNSAID | LINEAR_NORMS,
    values={"activation": ("silu",), "sub_norms": (False,), "tie_embeddings": (False, True)},
    check=lambda spec: rope.rope_fault(spec, spec.head_dim),
    huggingface=HuggingFace(
        ARCHITECTURE, "llama", _read, _write, in_transformers=True, linear_norms=True
    ),
)
