"""From exact sums to outputs: the float32 operations of the contract, in their order.

Shared by the training forward and by every portable form of `ternary_matmul`, so
that they cannot drift apart. Each guard below stands against one thing that XLA
does to float32 arithmetic; without it the bits depend on what surrounds the op
(docs/decisions/0002).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from bitnet_jax.quant.ternary import INVERSE_ACTIVATION_MAX, round_scale

_LARGEST = np.finfo(np.float32).max
_NARROW = ("bfloat16", "float16")


def read_input(x: Any) -> Any:
    """`x` as float32, with the precision of the dtype it came in.

    XLA removes a float32 -> bfloat16 -> float32 pair of casts around the op, and
    with it the rounding; `reduce_precision` stays.
    """
    name = str(x.dtype)
    wide = x.astype(jnp.float32)
    return round_scale(wide, name) if name in _NARROW else wide


def scale_output(acc: Any, scale: Any, a: Any, *, scale_kind: str) -> Any:
    """float32 outputs of exact sums.

    Args:
      acc: float32 (integers) [*stack, tokens, out], or [G, *stack, tokens, out] for groups.
      scale: [*stack] (tensor), [*stack, out] (row), [*stack, out, G] (group).
      a: float32 [*stack, tokens, 1], the activations' absmax.
    """
    # The barrier keeps XLA from reordering s * (a * c) to a * (s * c) when s is constant.
    token_scale = lax.optimization_barrier(a * INVERSE_ACTIVATION_MAX)
    if scale_kind == "group":
        by_group = jnp.moveaxis(scale, -1, 0)[..., None, :]
        return uncontracted(ordered_sum(acc * by_group) * token_scale, a)
    wide = scale[..., None, None] if scale_kind == "tensor" else scale[..., None, :]
    factor = lax.optimization_barrier(wide * token_scale)
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


def uncontracted(y: Any, a: Any) -> Any:
    """`y`, as a value that XLA cannot fuse into a multiply-add with what follows.

    A residual connection adds to `y`, and XLA's CPU code then computes `acc * s + x`
    with one rounding instead of two. Of barriers, `reduce_precision`, `max` and
    `clamp` only a clamp to the finite range stops it. A token whose activations are
    not finite stays NaN: the clamp alone would make it look like a number.
    """
    return jnp.where(jnp.isfinite(a), lax.clamp(-_LARGEST, y, _LARGEST), jnp.float32(jnp.nan))


def write_output(y: Any, out_dtype: Any) -> Any:
    """Rounds float32 `y` to `out_dtype`, even where XLA would keep the extra bits."""
    name = str(jnp.dtype(out_dtype))
    return (round_scale(y, name) if name in _NARROW else y).astype(out_dtype)
