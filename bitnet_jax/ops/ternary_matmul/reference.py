"""The meaning of the op in plain jnp: unpack, int32 dot, scale.

Every faster form has these signatures and gives the same bits. All arrays have a
leading stack axis: x [B, M, in], codes [B, OB, IB, 64], scale [B, ...].
"""

from __future__ import annotations

from jax import Array

from bitnet_jax.ops.packed_product import dot_int32, product, sums
from bitnet_jax.quant.layouts import unpack_codes


def accumulate(q: Array, codes: Array, *, out_features: int, layout: str, platform: str) -> Array:
    """int8 [B, M, in] -> int32 [B, M, out]."""
    del platform
    return dot_int32(q, unpack_codes(codes, layout, out_features, q.shape[-1]))


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
    """Float [B, M, in] -> `out_dtype` [B, M, out]."""
    del platform
    trits = unpack_codes(codes, layout, out_features, x.shape[-1])
    return product(
        x,
        scale,
        lambda q: sums(q, trits, scale_kind, group_size),
        scale_kind=scale_kind,
        out_dtype=out_dtype,
    )
