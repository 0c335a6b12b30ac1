"""The op as a call of the C++ kernels: the sum of squares in one order. CPU only.

So a row's result depends on no other row. It is the norm that `fused_linears` computes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ops.native.library import ffi_target


def fits(x: Any, weight: Any) -> bool:
    """Says whether the kernel takes operands of these shapes and dtypes."""
    floats = str(x.dtype) == str(weight.dtype) == "float32"
    return floats and weight.shape == x.shape[-1:] and x.size > 0


def rms_norm_native(x: Any, weight: Any, *, eps: float) -> Any:
    """As `rms_norm_reference`."""
    target, isa = ffi_target("bitnet_rms_norm")
    result = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    return jax.ffi.ffi_call(target, result)(x, weight, isa=np.int64(isa), eps=np.float32(eps))
