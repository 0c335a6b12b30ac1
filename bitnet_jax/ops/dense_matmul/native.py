"""The op as a call of the C++ kernels through XLA FFI. CPU only."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ops.native.library import ffi_target


def dense_matmul_native(x: Any, w: Any) -> Any:
    """As `dense_matmul_reference`, with the fixed order of sums of dense.h."""
    target, isa = ffi_target("bitnet_dense_matmul")
    tokens = int(np.prod(x.shape[:-1]))
    result = jax.ShapeDtypeStruct((tokens, w.shape[0]), jnp.float32)
    y = jax.ffi.ffi_call(target, result)(x.reshape(tokens, x.shape[-1]), w, isa=np.int64(isa))
    return y.reshape(*x.shape[:-1], w.shape[0])
