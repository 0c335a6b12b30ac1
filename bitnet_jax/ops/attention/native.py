"""The op as a call of the C++ kernels. CPU only.

Scores, softmax and sums are float32 in an order that depends on a query's own position
alone (`native/attention.h`): a result does not change with the batch, the other queries,
the number of keys beyond, or the threads.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ops.native.library import ffi_target
from bitnet_jax.quant.cache_rows import row_width

# Lanes of the kernels: a head must fill them.
LANES = 16


def fits(q: Any, k: Any, v: Any, positions: Any) -> bool:
    """Says whether the kernel takes operands of these shapes and dtypes."""
    held = {str(k.dtype), str(v.dtype)}
    placed = str(positions.dtype) == "int32" and positions.shape == q.shape[:2]
    whole = q.shape[-1] % LANES == 0 and q.size > 0 and k.size > 0
    floats = str(q.dtype) == "float32" and held in ({"float32"}, {"int8"})
    rows = floats and k.shape[-1] == v.shape[-1] == row_width(q.shape[-1], str(k.dtype))
    return rows and placed and whole


def attention_native(q: Any, k: Any, v: Any, positions: Any, *, window: int = 0) -> Any:
    """As `attention_reference`."""
    target, isa = ffi_target("bitnet_attention")
    result = jax.ShapeDtypeStruct(q.shape, jnp.float32)
    call = jax.ffi.ffi_call(target, result)
    return call(q, k, v, positions, isa=np.int64(isa), window=np.int64(window))
