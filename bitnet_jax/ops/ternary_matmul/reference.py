"""The meaning of the op in plain jnp: unpack, int32 dot, scale.

Every faster form has these signatures and gives the same bits. All arrays have a
leading stack axis: x [B, M, in], codes [B, OB, IB, 64], scale [B, ...].
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from bitnet_jax.quant.packing import unpack_trits
from bitnet_jax.quant.scaling import read_input, scale_output, write_output
from bitnet_jax.quant.ternary import quantize_activations

# dot_general dimension numbers of [B, M, in] x [B, out, in] -> [B, M, out]
BATCHED_NK = (((2,), (2,)), ((0,), (0,)))


def dot_int32(q: Array, trits: Array) -> Array:
    """Exact product: int8 [B, M, in] x int8 [B, out, in] -> int32 [B, M, out]."""
    return lax.dot_general(q, trits, BATCHED_NK, preferred_element_type=jnp.int32)


def dot_groups(q: Array, trits: Array, group: int) -> Array:
    """Exact product of each group of inputs by itself: int32 [G, B, M, out]."""
    batch, tokens, inputs = q.shape
    groups = inputs // group
    q = q.reshape(batch, tokens, groups, group)
    trits = trits.reshape(batch, trits.shape[1], groups, group)
    # Batched over [B, G], contracted within the group.
    dims = (((3,), (3,)), ((0, 2), (0, 2)))
    acc = lax.dot_general(q, trits, dims, preferred_element_type=jnp.int32)
    return jnp.moveaxis(acc, 1, 0)


def accumulate(q: Array, codes: Array, *, out_features: int, platform: str) -> Array:
    """int8 [B, M, in] -> int32 [B, M, out]."""
    del platform
    return dot_int32(q, unpack_trits(codes, out_features, q.shape[-1]))


def matmul(
    x: Array,
    codes: Array,
    scale: Array,
    *,
    out_features: int,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    platform: str,
) -> Array:
    """Float [B, M, in] -> `out_dtype` [B, M, out]."""
    del platform
    q, a = quantize_activations(read_input(x))
    trits = unpack_trits(codes, out_features, x.shape[-1])
    dot = partial(dot_groups, group=group_size) if scale_kind == "group" else dot_int32
    acc = dot(q, trits)
    return write_output(
        scale_output(acc.astype(jnp.float32), scale, a, scale_kind=scale_kind), out_dtype
    )
