"""The op as one call of the C++ kernels. CPU only.

Scores, softmax and sums are float32 in an order that depends on a query's own position
alone (`native/attention.h`): results do not change with the batch, the length of the
piece, the capacity of the cache or the number of threads. The caches are written in place.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ops.attention import native as attention
from bitnet_jax.ops.native.library import ffi_target
from bitnet_jax.ops.rotary.reference import frequencies


def fits(q: Any, k: Any, v: Any, positions: Any, keys: Any, values: Any) -> bool:
    """Says whether the kernel takes operands of these shapes and dtypes."""
    floats = str(k.dtype) == str(v.dtype) == "float32" and q.shape[1] <= keys.shape[1]
    return floats and attention.fits(q, keys, values, positions)


def cached_attention_native(
    q: Any,
    k: Any,
    v: Any,
    positions: Any,
    keys: Any,
    values: Any,
    *,
    theta: float,
    scaling: tuple[Any, ...] = (),
    window: int = 0,
) -> tuple[Any, Any, Any]:
    """As `cached_attention_reference`."""
    angles = positions.astype(jnp.float32)[..., None] * frequencies(q.shape[-1], theta, scaling)
    target, isa = ffi_target("bitnet_cached_attention")
    results = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in (q, keys, values)]
    call = jax.ffi.ffi_call(target, results, input_output_aliases={6: 1, 7: 2})
    y, keys, values = call(
        *(q, k, v, jnp.cos(angles), jnp.sin(angles), positions, keys, values),
        isa=np.int64(isa),
        window=np.int64(window),
    )
    return y, keys, values
