"""The arithmetic of a quantization-aware training step, exact at λ = 1.

The forward multiplies integer codes, not dequantized floats:

    y = dot(v, p) · (s · (a · float32(1/127)))
    v = λ·clamp(rint(x·r), -128, 127) + (1-λ)·x·r        r = 127 / a
    p = λ·clamp(rint(W·(1/s)), -1, 1) + (1-λ)·W·(1/s)

At λ = 1 both operands hold small integers, so the float32 dot is exact while
127·in < 2^24 and y is, bit for bit, what the packed int32 path gives. For
0 < λ < 1 it is the dot of w + λ·(quant(w) - w) and x + λ·(quant(x) - x). The
gradient is straight-through: only the rounding has a rule of its own
(`custom_jvp`), so the dot stays an ordinary `dot_general` that remat policies,
vmap, shardings and forward mode all see. a, r and s carry no gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.scaling import read_input, scale_output
from bitnet_jax.quant.tensor import broadcast_scale
from bitnet_jax.quant.ternary import (
    ACTIVATION_MAX,
    absmean_scale,
    activation_scale,
    inverse_scale,
)

# Above this, 127·in no longer fits the 24 bits in which float32 adds exactly.
MAX_EXACT_INPUTS = (1 << 24) // 127


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def round_straight_through(u: Any, low: int, high: int) -> Any:
    """``clamp(rint(u), low, high)`` with the identity as its derivative."""
    return lax.clamp(float(low), lax.round(u, lax.RoundingMethod.TO_NEAREST_EVEN), float(high))


@round_straight_through.defjvp
def _round_jvp(low: int, high: int, primals: Any, tangents: Any) -> Any:
    (u,), (du,) = primals, tangents
    return round_straight_through(u, low, high), du


def blend(u: Any, low: int, high: int, lam: Any) -> Any:
    """``λ·round(u) + (1-λ)·u``; `lam` None means exactly 1. λ carries no gradient."""
    rounded = round_straight_through(u, low, high)
    if lam is None:
        return rounded
    lam = lax.stop_gradient(lam)
    return lam * rounded + (1 - lam) * u


# Jitted so that a decoder's hundreds of linears are traced once per shape, not once each.
@functools.partial(
    jax.jit, static_argnames=("scale_kind", "group_size", "scale_dtype", "precision")
)
def qat_matmul(
    x: Any,
    w: Any,
    *,
    scale_kind: str = "tensor",
    group_size: int = 0,
    scale_dtype: str = "bfloat16",
    lam: Any = None,
    precision: Any = None,
) -> Any:
    """``x @ w.T`` as the quantized model computes it.

    Args:
      x: activations [*stack, tokens, in], any float dtype.
      w: latent weights [*stack, out, in], any float dtype.
      lam: traced λ in [0, 1], or None for exactly 1.
      precision: of the dot, as `lax.dot_general` takes it. At λ = 1 every precision is
        exact: codes fit bfloat16 and TF32.

    Returns:
      float32 [*stack, tokens, out].

    Raises:
      UsageError: `in` is too large for an exact float32 sum (``qat.in_features``).
    """
    if w.shape[-1] > MAX_EXACT_INPUTS:
        raise UsageError(
            "qat.in_features",
            f"{w.shape[-1]} inputs to one linear; float32 adds at most {MAX_EXACT_INPUTS} "
            "int8 products exactly",
            "split the contraction",
        )
    x, w = read_input(x), read_input(w)
    scale = absmean_scale(lax.stop_gradient(w), scale_kind, group_size, scale_dtype)
    a = activation_scale(lax.stop_gradient(x))
    v = blend(x * (ACTIVATION_MAX / a), -128, 127, lam)
    inverse = broadcast_scale(inverse_scale(scale), scale_kind, group_size)
    p = blend(w * inverse, -1, 1, lam)
    if scale_kind == "group":
        acc = jnp.stack(
            [
                _dot(v[..., at : at + group_size], p[..., at : at + group_size], precision)
                for at in range(0, v.shape[-1], group_size)
            ]
        )
    else:
        acc = _dot(v, p, precision)
    return scale_output(acc, scale, a, scale_kind=scale_kind)


def _dot(v: Any, p: Any, precision: Any) -> Any:
    """[*stack, tokens, in] by [*stack, out, in] to float32 [*stack, tokens, out]."""
    stack = tuple(range(v.ndim - 2))
    dims = (((v.ndim - 1,), (p.ndim - 1,)), (stack, stack))
    return lax.dot_general(v, p, dims, precision, preferred_element_type=jnp.float32)
