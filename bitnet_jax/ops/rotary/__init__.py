"""Rotary position embedding as a primitive."""

from bitnet_jax.ops.rotary.api import rotary, rotary_p

__all__ = ["rotary", "rotary_p"]
