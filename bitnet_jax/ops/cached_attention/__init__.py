"""Rotary positions, the write into the KV cache and attention over it, as one primitive."""

from bitnet_jax.ops.cached_attention.api import cached_attention, cached_attention_p

__all__ = ["cached_attention", "cached_attention_p"]
