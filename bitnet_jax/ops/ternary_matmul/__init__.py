"""`ternary_matmul`: float activations times packed ternary weights."""

from __future__ import annotations

from bitnet_jax.ops.ternary_matmul.api import ternary_accumulate, ternary_matmul
from bitnet_jax.ops.ternary_matmul.primitive import ternary_accumulate_p, ternary_matmul_p

__all__ = ["ternary_accumulate", "ternary_accumulate_p", "ternary_matmul", "ternary_matmul_p"]
