"""Ternary products of one input, with what stands before and after them, as one primitive."""

from bitnet_jax.ops.fused_linears.api import fused_linears, fused_linears_p

__all__ = ["fused_linears", "fused_linears_p"]
