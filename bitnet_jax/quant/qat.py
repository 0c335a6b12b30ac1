"""The arithmetic of a quantization-aware training step, exact at λ = 1.

The forward multiplies integer codes, not dequantized floats:

    y = dot(v, p) · (s · token_scale)
    v = λ·clamp(rint(x·r), low, high) + (1-λ)·x·r          (`activations.py`)
    p = λ·clamp(rint(W·(1/s)), -high, high) + (1-λ)·W·(1/s)  (`kinds.py`)

At λ = 1 both operands hold small integers. Their float32 dot is exact while
|v|·|p|·in < 2^24, and y is then, bit for bit, what the packed int32 path gives;
beyond that, and with ``forward="int8"``, the dot itself runs on int8 operands. For
0 < λ < 1 it is the dot of w + λ·(quant(w) - w) and x + λ·(quant(x) - x). The gradient
is straight-through: only the rounding has a rule of its own (`custom_jvp`), so the dot
stays an ordinary `dot_general`, in the user's own dimension order, that remat
policies, vmap, shardings and forward mode all see. a, r and s carry no gradient (a learned s does).

Knows nothing of views or jaxprs: a product is a function of two arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.activations import DEFAULT, Activation, multiplier, token_scale
from bitnet_jax.quant.kinds import KINDS
from bitnet_jax.quant.scaling import scaled
from bitnet_jax.quant.ternary import inverse_scale

FORWARDS = ("float32", "int8")
# Integers up to here, and all below, are float32 numbers.
EXACT = 1 << 24
LARGEST_SUM = 1 << 31

# product(v, p, dtype of the sums, *others)
Product = Callable[..., Any]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def round_straight_through(u: Any, low: int, high: int) -> Any:
    """``clamp(rint(u), low, high)`` with the identity as its derivative."""
    return lax.clamp(float(low), lax.round(u, lax.RoundingMethod.TO_NEAREST_EVEN), float(high))


@round_straight_through.defjvp
def _round_jvp(low: int, high: int, primals: Any, tangents: Any) -> Any:
    (u,), (du,) = primals, tangents
    return round_straight_through(u, low, high), du


def blend(u: Any, low: int, high: int, lam: Any, inside: Any = None) -> Any:
    """``λ·round(u) + (1-λ)·u``; `lam` None means exactly 1. λ carries no gradient.

    Args:
      inside: what is rounded, where it is not `u` itself.
    """
    rounded = round_straight_through(u if inside is None else inside, low, high)
    if lam is None:
        return rounded
    lam = lax.stop_gradient(lam)
    return lam * rounded + (1 - lam) * u


@dataclass(frozen=True)
class Arithmetic:
    """How a product computes. Hashable, for static use.

    Attributes:
      kind: of the weight's codes, a row of `KINDS`.
      forward: ``float32`` or ``int8``: what multiplies the codes at λ = 1.
      learned: the scale is trained: it carries a gradient.
    """

    kind: str = "ternary"
    activation: Activation = DEFAULT
    forward: str = "float32"
    learned: bool = False


def over_shards(found: Any, activation: Activation, shards: Sequence[str]) -> Any:
    """A token's statistic where its inputs are split over mesh axes: that of the whole token."""
    if not shards:
        return found
    # A mean over equal shards is the mean of theirs.
    combine = {"absmax": lax.pmax, "absmean": lax.pmean}[activation.statistic]
    return combine(found, tuple(shards))


def activation_codes(x: Any, peak: Any, how: Arithmetic, lam: Any) -> tuple[Any, Any]:
    """``(v, a)`` of float32 `x`; `peak`: its statistic, broadcast against it."""
    a, r = multiplier(lax.stop_gradient(x), how.activation, lax.stop_gradient(peak))
    return blend(x * r, how.activation.low, how.activation.high, lam), a


def weight_codes(w: Any, scale: Any, how: Arithmetic, lam: Any, mask: Any = None) -> Any:
    """p of float32 `w`; `scale` broadcasts against it.

    Args:
      mask: where it is 0 the code is 0; straight-through, the weight learns on.
    """
    high = KINDS[how.kind].high
    ratio = w * inverse_scale(scale)
    # Beyond the last code neither the weight nor a learned scale has a gradient (LSQ).
    inside = lax.clamp(-float(high), ratio, float(high)) if how.learned else ratio
    p = blend(ratio, -high, high, lam, inside)
    return p if mask is None else p - lax.stop_gradient(p * (1 - mask.astype(p.dtype)))


def exact_product(
    product: Product,
    v: Any,
    p: Any,
    inputs: int,
    how: Arithmetic,
    lam: Any,
    others: Sequence[Any] = (),
) -> Any:
    """Float32 sums of ``v · p`` over `inputs` terms: exact where λ is 1.

    Raises:
      UsageError: the sums would not fit int32 (``qat.in_features``).
    """
    # 8-bit codes never reach -128: the largest activation becomes 127.
    largest = max(how.activation.high, -how.activation.low if how.activation.bits < 8 else 0)
    bound = largest * KINDS[how.kind].high * inputs
    if bound >= LARGEST_SUM:
        raise UsageError(
            "qat.in_features",
            f"{inputs} inputs of kind {how.kind} to one product: its sums do not fit int32",
            "split the contraction",
        )
    fits = bound < EXACT
    if lam is not None or (fits and how.forward == "float32"):
        return product(v, p, jnp.float32, *others)
    return _integer_product(product, v, p, others)


def _integer_product(product: Product, v: Any, p: Any, others: Sequence[Any]) -> Any:
    """The product of int8 codes in int32; derivatives are those of the float product."""

    @jax.custom_jvp
    def run(v: Any, p: Any, *others: Any) -> Any:
        acc = product(v.astype(jnp.int8), p.astype(jnp.int8), jnp.int32, *others)
        return acc.astype(jnp.float32)

    @run.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (v, p, *others), (dv, dp, *_) = primals, tangents
        moved = product(dv, p, jnp.float32, *others) + product(v, dp, jnp.float32, *others)
        return run(v, p, *others), moved

    return run(v, p, *others)


def qat_output(acc: Any, wide: Any, a: Any, how: Arithmetic) -> Any:
    """Float32 outputs of the sums: weight scale and token statistic broadcast against them."""
    return scaled(acc, wide, token_scale(a, how.activation), a)
