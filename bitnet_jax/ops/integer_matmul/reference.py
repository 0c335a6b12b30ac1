"""The meaning of the op in plain jnp: unpack, int32 dot, scale.

Every faster form has this signature and gives the same bits. All arrays have a
leading stack axis: x [B, M, in], codes [B, ...] as the layout has them, scale [B, ...],
and, if given, peak [B, M, 1].
"""

from __future__ import annotations

from jax import Array

from bitnet_jax.ops.packed_product import product, sums
from bitnet_jax.quant.activations import Activation
from bitnet_jax.quant.layouts import unpack_codes


def matmul(
    x: Array,
    codes: Array,
    scale: Array,
    peak: Array | None = None,
    *,
    layout: str,
    activation: Activation,
    out_features: int,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    platform: str,
) -> Array:
    """Float [B, M, in] -> `out_dtype` [B, M, out]."""
    del platform
    matrix = unpack_codes(codes, layout, out_features, x.shape[-1])
    return product(
        x,
        scale,
        lambda q: sums(q, matrix, scale_kind, group_size),
        scale_kind=scale_kind,
        out_dtype=out_dtype,
        activation=activation,
        peak=peak,
    )
