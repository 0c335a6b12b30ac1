"""From exact sums to outputs: the float32 operations of the contract, in their order.

Shared by the training forward and by every portable form of the products with
packed weights, so that they cannot drift apart. Without its guards the bits depend
on what surrounds the op (`guards.py`, docs/decisions/0002).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from bitnet_jax.quant.activations import DEFAULT, Activation, token_scale
from bitnet_jax.quant.guards import barrier, round_scale, uncontracted

_NARROW = ("bfloat16", "float16")


def read_input(x: Any) -> Any:
    """`x` as float32, with the precision of the dtype it came in.

    XLA removes a float32 -> bfloat16 -> float32 pair of casts around the op, and
    with it the rounding; `reduce_precision` stays.
    """
    name = str(x.dtype)
    wide = x.astype(jnp.float32)
    return round_scale(wide, name) if name in _NARROW else wide


def scale_output(
    acc: Any, scale: Any, a: Any, *, scale_kind: str, activation: Activation = DEFAULT
) -> Any:
    """float32 outputs of exact sums.

    Args:
      acc: float32 (integers) [*stack, tokens, out], or [G, *stack, tokens, out] for groups.
      scale: [*stack] (tensor), [*stack, out] (row), [*stack, out, G] (group).
      a: float32 [*stack, tokens, 1], the activations' statistic, as `quantize` gives it.
      activation: whose constant turns `a` into the token's scale.
    """
    by_token = token_scale(a, activation)
    if scale_kind == "group":
        by_group = jnp.moveaxis(scale, -1, 0)[..., None, :]
        return uncontracted(ordered_sum(acc * by_group) * by_token, a)
    wide = scale[..., None, None] if scale_kind == "tensor" else scale[..., None, :]
    return scaled(acc, wide, by_token, a)


def scaled(acc: Any, wide: Any, by_token: Any, a: Any) -> Any:
    """``acc * (s * token_scale)``: all float32, broadcast against each other."""
    factor = barrier(wide * by_token)
    return uncontracted(acc * factor, a)


def ordered_sum(terms: Any) -> Any:
    """Sum over axis 0 in ascending order, the products in `terms` already rounded.

    A loop, since XLA may contract `product + total` to one fused multiply-add when
    both stand in one computation, and may sum an axis in any order.
    """
    if terms.shape[0] == 1:
        return terms[0]
    start = jnp.zeros_like(terms[0])
    return lax.fori_loop(0, terms.shape[0], lambda g, total: total + terms[g], start)


def write_output(y: Any, out_dtype: Any) -> Any:
    """Rounds float32 `y` to `out_dtype`, even where XLA would keep the extra bits."""
    name = str(jnp.dtype(out_dtype))
    return (round_scale(y, name) if name in _NARROW else y).astype(out_dtype)
