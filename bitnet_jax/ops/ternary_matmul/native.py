"""The op as a call of the C++ kernels through XLA FFI. CPU only.

The instruction set is chosen when the call is lowered, and is an attribute of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bitnet_jax.ops.native.library import ffi_target
from bitnet_jax.ops.native.selftest import LAYOUT_IDS, SCALE_KINDS


def accumulate(q: Array, codes: Array, *, out_features: int, layout: str, platform: str) -> Array:
    """As `reference.accumulate`."""
    del platform
    target, isa = ffi_target("bitnet_ternary_accumulate")
    result = jax.ShapeDtypeStruct((*q.shape[:2], out_features), jnp.int32)
    call = jax.ffi.ffi_call(target, result)
    return call(q, codes, isa=np.int64(isa), layout=np.int64(LAYOUT_IDS[layout]))


def matmul(
    x: Array,
    codes: Array,
    scale: Array,
    *,
    out_features: int,
    layout: str,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    platform: str,
) -> Array:
    """As `reference.matmul`."""
    del platform
    target, isa = ffi_target("bitnet_ternary_matmul")
    result = jax.ShapeDtypeStruct((*x.shape[:2], out_features), out_dtype)
    return jax.ffi.ffi_call(target, result)(
        x,
        codes,
        scale,
        isa=np.int64(isa),
        layout=np.int64(LAYOUT_IDS[layout]),
        scale_kind=np.int64(SCALE_KINDS[scale_kind]),
        group_size=np.int64(group_size),
    )
