"""`dense_matmul`: the op as callers use it, with its checks."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.dense_matmul.primitive import dense_matmul_p
from bitnet_jax.ops.select import check_implementation

WEIGHTS = ("float32", "bfloat16")


def dense_matmul(x: Array, w: Array, *, implementation: str | None = None) -> Array:
    """``x @ w.T`` in float32, without ever holding bfloat16 weights as float32.

    Natively, a sum's order is fixed for each row and token (dense.h): the bits depend on
    neither the other tokens, nor threads, nor the instruction set. The gradient is that of
    the reference.

    Args:
      x: float32 [..., in].
      w: float32 or bfloat16 [out, in].
      implementation: None or "auto" for the best that runs here, or "native", "reference":
        a named one runs or raises when lowered.

    Returns:
      float32 [..., out].

    Raises:
      UsageError: a dtype or shape that does not fit (``op.dtype``, ``op.shape``).
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    if x.dtype.name != "float32" or w.dtype.name not in WEIGHTS:
        raise UsageError(
            "op.dtype",
            f"dense_matmul takes float32 times {' or '.join(WEIGHTS)}, "
            f"not {x.dtype.name} times {w.dtype.name}",
        )
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise UsageError(
            "op.shape",
            f"dense_matmul needs x [..., in] and w [out, in], "
            f"found {list(x.shape)} and {list(w.shape)}",
        )
    chosen = check_implementation("dense_matmul", implementation)
    return dense_matmul_p.bind(x, w, implementation=chosen)
