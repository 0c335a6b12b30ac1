"""The numerics contract: what a ternary weight and an int8 activation are.

    weights      s = round_to(scale_dtype, max(absmean(W), 1e-5))
                 trits = clamp(rint(W * (1 / s)), -1, 1)
    activations  a = max(max|x| per token, 1e-5);  r = 127 / a
                 q = clamp(rint(x * r), -128, 127)
    linear       y = float32(sum q*trit, exact) * (s * (a * float32(1/127)))

Source: "The Era of 1-bit LLMs: Training Tips, Code and FAQ" (Ma et al., 2024);
the order of float32 operations is ours (docs/decisions/0002). `rint` rounds half
to even. Works on numpy and on JAX arrays, with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.absmean import absmean, flatten_last, namespace
from bitnet_jax.quant.activations import (
    ACTIVATION_MAX,
    EPSILON,
    INVERSE_ACTIVATION_MAX,
    activation_scale,
    quantize_activations,
)
from bitnet_jax.quant.guards import barrier, round_scale
from bitnet_jax.quant.tensor import QuantTensor, broadcast_scale, from_codes

__all__ = [
    "ACTIVATION_MAX",
    "EPSILON",
    "INVERSE_ACTIVATION_MAX",
    "absmean_scale",
    "activation_scale",
    "codes_of",
    "from_trits",
    "inverse_scale",
    "quantize_activations",
    "reduce_weights",
    "round_scale",
    "ternarize",
    "trits_of",
]


def reduce_weights(
    w: Any, statistic: Callable[[Any], Any], scale_kind: str = "tensor", group_size: int = 0
) -> Any:
    """`statistic` over what shares one scale, for canonical weights [..., out, in].

    Args:
      statistic: reduces the last axis of what it is given.

    Returns:
      [...] for ``tensor``, [..., out] for ``row``, [..., out, in/group] for ``group``.

    Raises:
      UsageError: the scale kind is unknown (``quant.scale_kind``), or groups do not
        divide the inputs (``quant.group_size``).
    """
    if scale_kind == "tensor":
        return statistic(flatten_last(w, 2))
    if scale_kind == "row":
        return statistic(w)
    if scale_kind != "group":
        raise UsageError(
            "quant.scale_kind",
            f"scale kind `{scale_kind}` is unknown",
            "known: tensor, row, group",
        )
    inputs = w.shape[-1]
    if group_size <= 0 or inputs % group_size:
        raise UsageError(
            "quant.group_size",
            f"groups of {group_size} do not divide {inputs} inputs",
            "choose a size that does, or row scales",
        )
    return statistic(w.reshape(*w.shape[:-1], inputs // group_size, group_size))


def absmean_scale(
    w: Any, scale_kind: str = "tensor", group_size: int = 0, scale_dtype: str = "bfloat16"
) -> Any:
    """Scale of canonical weights [..., out, in], float32.

    Returns:
      [...] for ``tensor``, [..., out] for ``row``, [..., out, in/group] for ``group``.
    """
    mean = reduce_weights(w, absmean, scale_kind, group_size)
    return round_scale(namespace(w).maximum(mean, EPSILON), scale_dtype)


def inverse_scale(scale: Any) -> Any:
    """``1 / s``, float32: what weights are multiplied by.

    Weights are not divided by s: XLA turns a division by a broadcast scalar into this
    product, numpy does not, and one weight in ten million then rounds to another trit.
    The product is what `transformers` computes too. The barrier keeps XLA from
    writing the division back.
    """
    return barrier(np.float32(1) / scale)


def codes_of(w: Any, scale: Any, high: int, scale_kind: str = "tensor", group_size: int = 0) -> Any:
    """``clamp(rint(W * (1/s)), -high, high)`` as int8, for canonical weights [..., out, in]."""
    xp = namespace(w)
    inverse = broadcast_scale(inverse_scale(scale), scale_kind, group_size)
    return xp.clip(xp.rint(w.astype(np.float32) * inverse), -high, high).astype(np.int8)


def trits_of(w: Any, scale: Any, scale_kind: str = "tensor", group_size: int = 0) -> Any:
    """``clamp(rint(W * (1/s)), -1, 1)`` as int8, for canonical weights [..., out, in]."""
    return codes_of(w, scale, 1, scale_kind, group_size)


def ternarize(
    w: Any, scale_kind: str = "tensor", group_size: int = 0, scale_dtype: str = "bfloat16"
) -> tuple[Any, Any]:
    """Ternarizes canonical weights [..., out, in].

    Returns:
      trits int8 of `w`'s shape, and the scale (float32, see `absmean_scale`).
    """
    scale = absmean_scale(w, scale_kind, group_size, scale_dtype)
    return trits_of(w, scale, scale_kind, group_size), scale


def from_trits(
    trits: Any,
    scale: Any,
    *,
    scale_kind: str = "tensor",
    group_size: int = 0,
    scale_dtype: str = "float32",
    dtype: str = "float32",
) -> QuantTensor:
    """Packs int8 trits [*stack, out, in] and their scale into a `QuantTensor`."""
    return from_codes(
        trits,
        scale,
        scale_kind=scale_kind,
        group_size=group_size,
        scale_dtype=scale_dtype,
        dtype=dtype,
    )
