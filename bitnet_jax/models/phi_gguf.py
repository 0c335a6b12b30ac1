"""Phi-1, Phi-1.5 and Phi-2 in GGUF files: llama.cpp's architecture `phi2`.

Its rotary embedding turns halves, as in `transformers`: no row is moved. How much of a head is
turned stands as a number of elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import llama_gguf, rope, rope_gguf
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
    rotated = found.key("rope.dimension_count", head_dim)
    if not isinstance(rotated, int) or not 0 < rotated <= head_dim:
        raise BadData(
            "config.value",
            f"{found.where}: phi2.rope.dimension_count is {shown(rotated)}; it must be a number of "
            f"elements of a head of {head_dim}",
            "the file was edited: convert again from the source",
        )
    scaling = rope_gguf.read_fields(found, theta, head_dim, None)
    share = rotated / head_dim
    if int(head_dim * share) != rotated:  # 30 of 44, rounded down
        share = math.nextafter(share, 1)
    return {"activation": "gelu_tanh", "extra": scaling | {"rotary_share": share}}


def _more(spec: ModelSpec) -> dict[str, tuple[str, Any]]:
    turned = {"rope.dimension_count": ("u32", rope.rotated_of(spec))}
    return rope_gguf.write_keys(spec) | turned


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `phi2` cannot hold `spec`."""
    return llama_gguf.other_heads(spec) or rope_gguf.no_llama3(spec)


GGUF = Gguf(
    architecture="phi2",
    names=_NAMES,
    keys=_KEYS,
    fixed=_fixed,
    more=_more,
    scales=lambda name, spec: False,
    refuses=refuses,
)
