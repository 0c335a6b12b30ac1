"""Llama in GGUF files: llama.cpp's architecture `llama`.

Its rotary embedding turns neighbouring pairs, so the rows of q and k (and of their biases)
are interleaved, as llama.cpp's converter does (`LlamaModel.permute`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope_gguf
from bitnet_jax.models.gguf import BIAS_NAMES, LLAMA_NAMES, Found, Gguf
from bitnet_jax.models.linear_norms import LINEAR_NORMS

_Q, _K = "layers.N.self_attn.q_proj", "layers.N.self_attn.k_proj"


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    scaling = rope_gguf.read_fields(found, theta, head_dim, fields.get("_stated"))
    biased = {
        "attention_bias": "blk.0.attn_q.bias" in found.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in found.tensors,
    }
    return {"extra": scaling | biased | LINEAR_NORMS}


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `llama` cannot hold `spec`."""
    if spec.extra.get("linear_norms"):
        return "its linears have norms of their own, which the architecture has no place for"
    return None


def windows(spec: ModelSpec) -> str | None:
    """Why llama.cpp, which gives these architectures no window, cannot hold `spec`."""
    if spec.extra.get("sliding_window"):
        return "its attention has a sliding window, which llama.cpp does not give this architecture"
    return None


def other_heads(spec: ModelSpec) -> str | None:
    """Why an architecture that reads no width of a head cannot hold `spec`."""
    if spec.head_dim * spec.num_heads == spec.hidden_size:
        return None
    return (
        f"its {spec.num_heads} heads of {spec.head_dim} do not make up its hidden size, "
        f"{spec.hidden_size}, as this architecture wants"
    )


def _mistral_fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    return {"extra": rope_gguf.read_fields(found, theta, head_dim, fields.get("_stated"))}


def _scales(name: str, spec: ModelSpec) -> bool:
    # llama.cpp's `build_ffn` multiplies by the scale after it has added the bias (seen: log-
    # probabilities 0.6 off), its attention before.
    return not (spec.extra.get("mlp_bias") and ".mlp." in name)


PERMUTED = {
    _Q: "num_heads", _Q + ".bias": "num_heads", _K: "num_kv_heads", _K + ".bias": "num_kv_heads",
}  # fmt: skip

GGUF = Gguf(
    architecture="llama",
    names=(*LLAMA_NAMES, *BIAS_NAMES),
    fixed=_fixed,
    more=rope_gguf.write_keys,
    tensors=rope_gguf.write_tensors,
    permuted=PERMUTED,
    scales=_scales,
    refuses=refuses,
)

# Written under the same name; read as Llama where the file does not say (it is one).
MISTRAL = Gguf(
    architecture="llama",
    fixed=_mistral_fixed,
    more=rope_gguf.write_keys,
    tensors=rope_gguf.write_tensors,
    permuted=PERMUTED,
    refuses=windows,
)
