"""Causal grouped-query attention as a primitive."""

from bitnet_jax.ops.attention.api import attention, attention_p

__all__ = ["attention", "attention_p"]
