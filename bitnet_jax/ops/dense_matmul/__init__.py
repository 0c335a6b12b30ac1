"""`dense_matmul`: float32 activations times float weights, in one order of sums."""

from bitnet_jax.ops.dense_matmul.api import dense_matmul
from bitnet_jax.ops.dense_matmul.primitive import dense_matmul_p

__all__ = ["dense_matmul", "dense_matmul_p"]
