"""`quantized_lookup`: rows of a packed table as floats."""

from __future__ import annotations

from bitnet_jax.ops.quantized_lookup.api import quantized_lookup, quantized_lookup_p

__all__ = ["quantized_lookup", "quantized_lookup_p"]
