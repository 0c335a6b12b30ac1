"""BitNet b1.58 as 1bitLLM published it (`BitnetForCausalLM`, with a small n; arXiv 2402.17764).

The function is that of `bitnet.py` with a SiLU gate; the norms before the output and the down
projection are called `inner_attn_ln` and `ffn_layernorm`. Its config says `model_type: llama`,
and nothing of `quantization_config`: the architecture itself quantizes its float masters,
at each forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import bitnet, config_keys, rows
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.huggingface import HuggingFace
from bitnet_jax.models.rope import kind_of, parameters, write_rope

ARCHITECTURE = "BitnetForCausalLM"

NAMES = rows.renamed(
    bitnet.NAMES, {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
)

# Ternary weights and int8 activations: what is computed here.
_FIXED: dict[str, Any] = {
    "attention_bias": False,
    "input_bits": 8,
    "weight_bits": 1,
}
_ACTIVATIONS = {"silu": "silu"}


def _read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    config_keys.fixed(raw, where, ARCHITECTURE, _FIXED)
    rope = parameters(raw, where)
    kind_of(rope, where, {"default": ()}, "no model of this architecture scales its positions")
    return config_keys.read_sizes(raw, where, 2048) | {
        "rope_theta": rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "activation": config_keys.activation(raw, where, _ACTIVATIONS, "silu", "hidden_act"),
        "sub_norms": True,
        "tie_embeddings": config_keys.boolean(raw, "tie_word_embeddings", where),
    }


def _write(spec: ModelSpec, old: bool) -> dict[str, Any]:
    return (
        config_keys.write_sizes(spec)
        | _FIXED
        | write_rope(spec, old)
        | {
            "hidden_act": spec.activation,
            "rms_norm_eps": spec.rms_norm_eps,
            "tie_word_embeddings": spec.tie_embeddings,
        }
    )


FAMILY = Family(
    api=API,
    name="bitnet-1bitllm",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(bitnet.design),
    values={"activation": ("silu",), "sub_norms": (True,)},
    check=bitnet.check,
    huggingface=HuggingFace(ARCHITECTURE, "llama", _read, _write, masters=True),
)
