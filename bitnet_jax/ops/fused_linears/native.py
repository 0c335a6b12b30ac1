"""The op as one call of the C++ kernels. CPU only.

The sum of the norm has one order (`native/floats.h`), so a token's result depends on no
other token and on no number of threads.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ops.fused_linears.reference import sorted_out
from bitnet_jax.ops.native.library import ffi_target
from bitnet_jax.ops.native.selftest import LAYOUT_IDS, SCALE_KINDS

# The numbers that product.h gives to the gates.
GATES = {"": 0, "relu2": 1}
# Weights in one call (kMaxParts in product.h).
MOST_WEIGHTS = 8


def fused_linears_native(
    *operands: Any,
    gate: str,
    normed: bool,
    eps: float,
    added: bool,
    layout: str,
    scale_kind: str,
    group_size: int,
    out_features: tuple[int, ...],
) -> list[Any]:
    """As `fused_linears_reference`."""
    target, isa = ffi_target("bitnet_fused_linears")
    x = sorted_out(operands, gate, normed, added).x
    results = [jax.ShapeDtypeStruct((*x.shape[:2], out), jnp.float32) for out in out_features]
    return list(
        jax.ffi.ffi_call(target, results)(
            *operands,
            isa=np.int64(isa),
            gate=np.int64(GATES[gate]),
            normed=np.bool_(normed),
            eps=np.float32(eps),
            added=np.bool_(added),
            layout=np.int64(LAYOUT_IDS[layout]),
            scale_kind=np.int64(SCALE_KINDS[scale_kind]),
            group_size=np.int64(group_size),
        )
    )
