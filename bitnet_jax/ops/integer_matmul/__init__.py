"""`integer_matmul`: float activations times packed integer weights of any kind."""

from __future__ import annotations

from bitnet_jax.ops.integer_matmul.api import integer_matmul
from bitnet_jax.ops.integer_matmul.primitive import integer_matmul_p

__all__ = ["integer_matmul", "integer_matmul_p"]
