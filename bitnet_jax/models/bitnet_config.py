"""The `config.json` of `BitNetForCausalLM`: to the fields of a spec and back.

Reads the spelling of transformers 4 (`rope_theta`) and of 5 (`rope_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.config_keys import boolean, read_sizes, write_sizes
from bitnet_jax.models.huggingface import HuggingFace
from bitnet_jax.models.rope import kind_of, parameters, write_rope

# What transformers assumes of a key that is absent, unlike our own defaults.
_DEFAULT_POSITIONS = 2048
_DEFAULT_THETA = 500000.0


def _read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = read_sizes(raw, where, _DEFAULT_POSITIONS) | {
        "rope_theta": _rope_theta(raw, where),
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-5),
        "activation": raw.get("hidden_act", "relu2"),
        "sub_norms": True,
        "tie_embeddings": boolean(raw, "tie_word_embeddings", where),
    }
    if boolean(raw, "attention_bias", where) or boolean(raw, "mlp_bias", where):
        raise BadData(
            "config.unsupported", f"{where}: this model has biases, which no BitNet has here", None
        )
    return fields


def _rope_theta(raw: Mapping[str, Any], where: str) -> float:
    """The base, from `rope_parameters` (5.x) or `rope_theta` and `rope_scaling` (4.x)."""
    rope = parameters(raw, where)
    hint = "only the default rotary embedding is; no released BitNet uses another"
    kind_of(rope, where, {"default": ()}, hint)
    return rope.get("rope_theta", raw.get("rope_theta", _DEFAULT_THETA))


def _write(spec: ModelSpec, old: bool) -> dict[str, Any]:
    config = write_sizes(spec) | {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": spec.activation,
        "initializer_range": 0.02,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
    }
    if old:
        # What equals transformers 4's own default is not written there.
        unsaid = ("attention_bias", "attention_dropout")
        config = {k: v for k, v in config.items() if k not in unsaid}
    return config | write_rope(spec, old)


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
