"""Gemma 3, text alone (`Gemma3ForCausalLM`; arXiv 2503.19786).

Gemma's parts, with a norm of each query and key, norms on both sides of attention and
feed-forward, and windows in most layers, which have a rotary base of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import config_keys, gemma, rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.gemma3_gguf import GGUF

_BIASED = (*rows.QKV, *rows.OUT)

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.QK_NORM,
    *rows.OUT,
    *rows.biases(_BIASED, "extra.attention_bias"),
    *rows.POST_NORM,
    *rows.SANDWICH_NORMS,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.FINAL_NORM,
    *rows.HEAD,
)
_THETA, _LOCAL_THETA = 1000000.0, 10000.0


def _read_rope(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Two sets of rotary parameters: transformers 5 keeps them by the layers' type."""
    found = rope.parameters(raw, where)
    full: Any = found.get("full_attention")
    sliding: Any = found.get("sliding_attention")
    if full is None and sliding is None:  # transformers 4
        full = {**found, "rope_theta": raw["rope_theta"]}
        sliding = {"rope_theta": raw["rope_local_base_freq"]}
    for name, one in (("full_attention", full), ("sliding_attention", sliding)):
        if not isinstance(one, dict):
            raise BadData("config.value", f"{where}: rope parameters of {name} are {shown(one)}")
    rope.kind_of(sliding, where, {"default": ()}, "layers with a window have no scaling here")
    return {
        "rope_theta": full.get("rope_theta", _THETA),
        "local_rope_theta": config_keys.number(sliding, "rope_theta", where, _LOCAL_THETA),
        **rope.read_rope(full, where),
    }


def _write_rope(spec: ModelSpec, old: bool) -> dict[str, Any]:
    local = spec.extra["local_rope_theta"]
    if old:
        return rope.write_rope(spec, old) | {"rope_local_base_freq": local}
    full = {"rope_theta": spec.rope_theta} | rope.write_scaling(spec)
    sliding = {"rope_theta": local, "rope_type": "default"}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


def _slides(raw: Mapping[str, Any], layer: int, window: int) -> str:
    pattern = config_keys.required(raw, "sliding_window_pattern", "config.json")
    return "s" if window and (layer + 1) % pattern else "f"


_QUERY = spelling.Part(
    {"query_pre_attn_scalar": 256},
    lambda raw, where: {
        "query_pre_attn_scalar": config_keys.required(raw, "query_pre_attn_scalar", where)
    },
    lambda spec, old: {"query_pre_attn_scalar": spec.extra["query_pre_attn_scalar"]},
)
PARTS = (
    spelling.Part(rope.FIELDS | {"local_rope_theta": _LOCAL_THETA}, _read_rope, _write_rope),
    spelling.layered_windows(_slides),
    spelling.flags(attention_bias=False),
    _QUERY,
    gemma.ONE_WAY,
    spelling.without(
        attn_logit_softcapping="softcapped attention", final_logit_softcapping="softcapped logits"
    ),
)


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    bias = bool(spec.extra["attention_bias"])
    full = Layer(spec.rope_theta, rope.scaling_of(spec))
    layers = (
        Layer(float(spec.extra["local_rope_theta"]), window=window) if window else full
        for window in spelling.windows_of(spec)
    )
    return Design(
        tuple(layers),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        norm_offset=1.0,
        sandwich=True,
        embedding_scale=spec.hidden_size**0.5,
        query_scale=(spec.head_dim / int(spec.extra["query_pre_attn_scalar"])) ** 0.5,
    )


def _check(spec: ModelSpec) -> str | None:
    for name in ("query_pre_attn_scalar", "local_rope_theta"):
        if not 0 < float(spec.extra[name]) < float("inf"):
            return f"{name} is {shown(spec.extra[name])}; it must be a positive number"
    return rope.rope_fault(spec, spec.head_dim) or spelling.window_fault(spec)


FAMILY = Family(
    api=API,
    name="gemma3",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    sizes=rows.head_size,
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("gelu_tanh",), "tie_embeddings": (True, False)},
    check=_check,
    may_be_zero=("*norm",),
    huggingface=spelling.spelled(
        "Gemma3ForCausalLM",
        "gemma3_text",
        *PARTS,
        absent={
            "head_dim": 256,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-6,
            "rope_local_base_freq": _LOCAL_THETA,
            "rope_theta": _THETA,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "tie_word_embeddings": True,
        },
        activations={"gelu_pytorch_tanh": "gelu_tanh"},
        activation_key="hidden_activation",
        in_transformers=True,
    ),
    gguf=GGUF,
)
