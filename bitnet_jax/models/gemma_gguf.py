"""Gemma in GGUF files: llama.cpp's architecture `gemma`.

A norm's weight stands there with the 1 that is added to it. The head is the embedding, which
llama.cpp multiplies by the root of its size itself; rotary embedding turns halves: no row is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope_gguf
from bitnet_jax.models.gguf import LLAMA_KEYS, Found, Gguf, MetadataKey

# llama.cpp's converter always writes a head's width, and other readers take 256 without it.
GEMMA_KEYS: tuple[MetadataKey, ...] = tuple(
    replace(key, default=None) if key.field == "head_dim" else key for key in LLAMA_KEYS
)
NORM_OFFSET = 1.0


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    rope_gguf.whole_heads(found, head_dim)
    scaling = rope_gguf.read_fields(found, theta, head_dim, None)
    return {"activation": "gelu_tanh", "extra": scaling}


def no_biases(spec: ModelSpec) -> str | None:
    """Why an architecture without biases cannot hold `spec`."""
    if spec.extra["attention_bias"]:
        return "its attention has biases, which this architecture has no place for"
    return None


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `gemma` cannot hold `spec`."""
    if not spec.tie_embeddings:
        return "its head is not tied to the embedding, and this architecture has no other"
    return no_biases(spec) or rope_gguf.no_llama3(spec)


GGUF = Gguf(
    architecture="gemma",
    keys=GEMMA_KEYS,
    fixed=_fixed,
    more=rope_gguf.write_keys,
    norm_offset=NORM_OFFSET,
    # Its graph multiplies by those of attention, not by those of the feed-forward.
    scales=lambda name, spec: False,
    refuses=refuses,
)
