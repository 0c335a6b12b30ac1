"""The `config.json` of `BitNetForCausalLM`: to the fields of a spec and back.

Reads the spelling of transformers 4 (`rope_theta`) and of 5 (`rope_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.huggingface import HuggingFace

# config.json key -> spec field, for the numbers that are spelled one way only.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
# What transformers assumes of a key that is absent, unlike our own defaults.
_DEFAULT_POSITIONS = 2048
_DEFAULT_THETA = 500000.0
_WRONG = "is this the right config for these weights?"


def _read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {
        **{field: _required(raw, key, where) for key, field in _SIZES.items()},
        **_heads(raw, where),
        "max_positions": raw.get("max_position_embeddings", _DEFAULT_POSITIONS),
        "rope_theta": _rope_theta(raw, where),
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-5),
        "activation": raw.get("hidden_act", "relu2"),
        "sub_norms": True,
        "tie_embeddings": _boolean(raw, "tie_word_embeddings", where),
    }
    if _boolean(raw, "attention_bias", where) or _boolean(raw, "mlp_bias", where):
        raise BadData(
            "config.unsupported", f"{where}: this model has biases, which no BitNet has here", None
        )
    return fields


def _required(raw: Mapping[str, Any], key: str, where: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        found = "is missing" if key not in raw else f"is {shown(value)}"
        raise BadData(
            "config.value", f"{where}: {key} {found}; it must be a positive whole number", _WRONG
        )
    return value


def _boolean(raw: Mapping[str, Any], key: str, where: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise BadData("config.value", f"{where}: {key} is {shown(value)}, neither true nor false")
    return value


def _heads(raw: Mapping[str, Any], where: str) -> dict[str, int]:
    hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
    kv_heads = raw.get("num_key_value_heads")
    head_dim = raw.get("head_dim")
    if head_dim is None and hidden % heads:
        raise BadData(
            "config.value",
            f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}",
            _WRONG,
        )
    return {
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "head_dim": hidden // heads if head_dim is None else head_dim,
    }


def _rope_theta(raw: Mapping[str, Any], where: str) -> float:
    """The base, from `rope_parameters` (5.x) or `rope_theta` and `rope_scaling` (4.x)."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise BadData("config.value", f"{where}: rope parameters {shown(rope)} are no JSON object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise BadData(
            "config.unsupported",
            f"{where}: rope_type {shown(kind)} is not supported",
            "only the default rotary embedding is; no released BitNet uses another",
        )
    return rope.get("rope_theta", raw.get("rope_theta", _DEFAULT_THETA))


def _write(spec: ModelSpec, old: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": spec.activation,
        "hidden_size": spec.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate_size,
        "max_position_embeddings": spec.max_positions,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "num_key_value_heads": spec.num_kv_heads,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
        "vocab_size": spec.vocab_size,
    }
    if spec.head_dim * spec.num_heads != spec.hidden_size:
        config["head_dim"] = spec.head_dim
    if old:
        # What equals transformers 4's own default is not written there.
        unsaid = ("attention_bias", "attention_dropout")
        return {k: v for k, v in config.items() if k not in unsaid} | {
            "rope_theta": spec.rope_theta
        }
    rope = {"rope_theta": spec.rope_theta, "rope_type": "default"}
    return config | {"rope_parameters": rope}


HUGGINGFACE = HuggingFace(
    architecture="BitNetForCausalLM",
    model_type="bitnet",
    read=_read,
    write=_write,
    in_transformers=True,
    auto_map={
        "AutoConfig": "configuration_bitnet.BitNetConfig",
        "AutoModelForCausalLM": "modeling_bitnet.BitNetForCausalLM",
    },
)
