"""The primitive: x float32 [..., in], w float32 or bfloat16 [out, in] to float32 [..., out].

Batching tokens keeps the op; batched weights are the reference's.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from bitnet_jax.ops.define import define
from bitnet_jax.ops.dense_matmul.native import dense_matmul_native
from bitnet_jax.ops.dense_matmul.reference import dense_matmul_reference

dense_matmul_p = define(
    "dense_matmul", dense_matmul_reference, native=dense_matmul_native, value_kept=True
)


def _batch(args: Any, axes: Any, **params: Any) -> Any:
    if axes[1] is not None:
        return jax.vmap(dense_matmul_reference, tuple(axes))(*args), 0
    x = jnp.moveaxis(args[0], axes[0], 0)
    return dense_matmul_p.bind(x, args[1], **params), 0


batching.primitive_batchers[dense_matmul_p] = _batch
