"""The meaning of the op in plain jnp: unpack, int32 dot, scale.

Every faster form has these signatures and gives the same bits. All arrays have a
leading stack axis: x [B, M, in], codes [B, OB, IB, 64], scale [B, ...].
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from bitnet_jax.quant.packing import unpack_trits
from bitnet_jax.quant.ternary import INVERSE_ACTIVATION_MAX, quantize_activations

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


def read_input(x: Array) -> Array:
    """`x` as float32, with bfloat16's precision if it came as bfloat16.

    XLA removes a float32 -> bfloat16 -> float32 pair of casts around the op, and
    with it the rounding; `reduce_precision` stays.
    """
    wide = x.astype(jnp.float32)
    return lax.reduce_precision(wide, 8, 7) if x.dtype == jnp.bfloat16 else wide


def write_output(y: Array, out_dtype: str) -> Array:
    """Rounds float32 `y` to `out_dtype`, even where XLA would keep the extra bits."""
    if out_dtype == "bfloat16":
        y = lax.reduce_precision(y, 8, 7)
    return y.astype(out_dtype)


def ordered_sum(terms: Array) -> Array:
    """Sum over axis 0 in ascending order, the products in `terms` already rounded.

    A loop, since XLA may contract `product + total` to one fused multiply-add when
    both stand in one computation, and may sum an axis in any order.
    """
    if terms.shape[0] == 1:
        return terms[0]
    start = jnp.zeros_like(terms[0])
    return lax.fori_loop(0, terms.shape[0], lambda g, total: total + terms[g], start)


def scale_output(acc: Array, scale: Array, a: Array, *, scale_kind: str) -> Array:
    """float32 outputs of accumulators, in the contract's order of operations.

    Args:
      acc: int32 [B, M, out], or [G, B, M, out] for group scales.
      scale: [B] (tensor), [B, out] (row), [B, out, G] (group).
      a: float32 [B, M, 1].
    """
    # The barrier keeps XLA from reordering s * (a * c) to a * (s * c) when s is constant.
    token_scale = lax.optimization_barrier(a * INVERSE_ACTIVATION_MAX)
    if scale_kind == "group":
        by_group = jnp.moveaxis(scale, 2, 0)[:, :, None, :]
        return ordered_sum(acc.astype(jnp.float32) * by_group) * token_scale
    wide = scale[:, None, None] if scale_kind == "tensor" else scale[:, None, :]
    factor = lax.optimization_barrier(wide * token_scale)
    return acc.astype(jnp.float32) * factor


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
    return write_output(scale_output(acc, scale, a, scale_kind=scale_kind), out_dtype)
