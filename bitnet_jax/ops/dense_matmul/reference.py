"""What `dense_matmul` means."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax


def dense_matmul_reference(x: Any, w: Any) -> Any:
    """``x @ w.T`` in float32: x float32 [..., in], w float [out, in] to [..., out].

    XLA's order of a sum depends on how many tokens there are.
    """
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, w.astype(jnp.float32), dims, precision=lax.Precision.HIGHEST)
