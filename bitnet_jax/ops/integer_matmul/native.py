"""The op as a call of the C++ kernels for weights in rows, through XLA FFI. CPU only.

It takes what language models multiply by: int8 activations of each token's own absmax,
and weights in rows. The rest (`refusal`) is left to the XLA form, which gives the same
bits.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import Array

from bitnet_jax.ops.native.library import ROWS_LAYOUTS, SCALE_KINDS, ffi_target
from bitnet_jax.quant.activations import DEFAULT, Activation

DTYPES = ("float32", "bfloat16")
# Columns of a group: whole vectors of activations, and whole bytes of every layout.
GROUP_STEP = 16


def refusal(
    x: Array,
    codes: Array,
    scale: Array,
    *peak: Array,
    layout: str,
    activation: Activation,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    **_: object,
) -> str | None:
    """What the kernels do not take of a call, or None."""
    del codes, scale
    if layout not in ROWS_LAYOUTS:
        return f"weights in layout {layout}"
    if activation != DEFAULT:
        return f"activations of {activation.bits} bits by {activation.statistic}"
    if peak:
        return "a statistic from outside"
    if x.dtype.name not in DTYPES or out_dtype not in DTYPES:
        return f"{x.dtype.name} to {out_dtype}"
    if scale_kind == "group" and group_size % GROUP_STEP:
        return f"groups of {group_size} columns (a multiple of {GROUP_STEP} is needed)"
    return None


def matmul(
    x: Array,
    codes: Array,
    scale: Array,
    *,
    layout: str,
    activation: Activation,
    out_features: int,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    platform: str,
) -> Array:
    """As `reference.matmul`, of calls without a `refusal`."""
    del platform, activation
    target, isa = ffi_target("bitnet_rows_matmul")
    result = jax.ShapeDtypeStruct((*x.shape[:2], out_features), out_dtype)
    return jax.ffi.ffi_call(target, result)(
        x,
        codes,
        scale,
        isa=np.int64(isa),
        layout=np.int64(ROWS_LAYOUTS[layout]),
        scale_kind=np.int64(SCALE_KINDS[scale_kind]),
        group_size=np.int64(group_size),
    )
