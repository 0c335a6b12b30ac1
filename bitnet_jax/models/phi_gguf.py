"""Phi-1, Phi-1.5 and Phi-2 in GGUF files: llama.cpp's architecture `phi2`.

Its rotary embedding turns halves, as in `transformers`: no row is moved. How much of a head is
turned stands as a number of elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import llama_gguf, rope_gguf
from bitnet_jax.models.gguf import BIAS_NAMES, LLAMA_KEYS, LLAMA_NAMES, Found, Gguf, TensorName

# The linears' biases are Llama's; its norms and its head have some too.
_NAMES = (
    *LLAMA_NAMES,
    *BIAS_NAMES,
    TensorName("layers.N.input_layernorm.bias", "blk.N.attn_norm.bias"),
    TensorName("norm.bias", "output_norm.bias"),
    TensorName("lm_head.bias", "output.bias"),
)
_KEYS = tuple(
    replace(key, name="attention.layer_norm_epsilon") if key.field == "rms_norm_eps" else key
    for key in LLAMA_KEYS
)


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    share = rope_gguf.read_share(found, head_dim)
    scaling = rope_gguf.read_fields(found, theta, head_dim, None)
    return {"activation": "gelu_tanh", "extra": scaling | {"rotary_share": share}}


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `phi2` cannot hold `spec`."""
    return llama_gguf.other_heads(spec) or rope_gguf.no_llama3(spec)


GGUF = Gguf(
    architecture="phi2",
    names=_NAMES,
    keys=_KEYS,
    fixed=_fixed,
    more=rope_gguf.write_share,
    scales=lambda name, spec: False,
    refuses=refuses,
)
