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

from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.absmean import absmean, flatten_last, namespace
from bitnet_jax.quant.packing import pack_trits
from bitnet_jax.quant.tensor import QuantTensor, broadcast_scale

EPSILON = np.float32(1e-5)
ACTIVATION_MAX = np.float32(127)
# y multiplies by this constant: XLA turns division by a constant into it anyway.
INVERSE_ACTIVATION_MAX = np.float32(1.0 / 127.0)

# exponent and mantissa bits of the dtypes a scale can have
_SCALE_BITS = {"float32": (8, 23), "bfloat16": (8, 7), "float16": (5, 10)}


def round_scale(scale: Any, scale_dtype: str) -> Any:
    """Rounds float32 `scale` to `scale_dtype`'s precision, keeping float32.

    `lax.reduce_precision` rather than two casts: XLA removes a pair of casts.
    """
    if scale_dtype not in _SCALE_BITS:
        raise UsageError(
            "quant.scale_dtype",
            f"scale dtype `{scale_dtype}` is unknown",
            "known: " + ", ".join(_SCALE_BITS),
        )
    if scale_dtype == "float32":
        return scale
    if namespace(scale) is np:
        import ml_dtypes

        dtype = ml_dtypes.bfloat16 if scale_dtype == "bfloat16" else np.float16
        return np.asarray(scale, np.float32).astype(dtype).astype(np.float32)
    from jax import lax

    return lax.reduce_precision(scale, *_SCALE_BITS[scale_dtype])


def absmean_scale(
    w: Any, scale_kind: str = "tensor", group_size: int = 0, scale_dtype: str = "bfloat16"
) -> Any:
    """Scale of canonical weights [..., out, in], float32.

    Returns:
      [...] for ``tensor``, [..., out] for ``row``, [..., out, in/group] for ``group``.
    """
    xp = namespace(w)
    if scale_kind == "tensor":
        mean = absmean(flatten_last(w, 2))
    elif scale_kind == "row":
        mean = absmean(w)
    elif scale_kind == "group":
        mean = absmean(w.reshape(*w.shape[:-1], w.shape[-1] // group_size, group_size))
    else:
        raise UsageError(
            "quant.scale_kind",
            f"scale kind `{scale_kind}` is unknown",
            "known: tensor, row, group",
        )
    return round_scale(xp.maximum(mean, EPSILON), scale_dtype)


def inverse_scale(scale: Any) -> Any:
    """``1 / s``, float32: what weights are multiplied by.

    Weights are not divided by s: XLA turns a division by a broadcast scalar into this
    product, numpy does not, and one weight in ten million then rounds to another trit.
    The product is what `transformers` computes too. The barrier keeps XLA from
    writing the division back.
    """
    inverse = np.float32(1) / scale
    if namespace(inverse) is np:
        return inverse
    from jax import lax

    return lax.optimization_barrier(inverse)


def trits_of(w: Any, scale: Any, scale_kind: str = "tensor", group_size: int = 0) -> Any:
    """``clamp(rint(W * (1/s)), -1, 1)`` as int8, for canonical weights [..., out, in]."""
    xp = namespace(w)
    inverse = broadcast_scale(inverse_scale(scale), scale_kind, group_size)
    return xp.clip(xp.rint(w.astype(np.float32) * inverse), -1, 1).astype(np.int8)


def ternarize(
    w: Any, scale_kind: str = "tensor", group_size: int = 0, scale_dtype: str = "bfloat16"
) -> tuple[Any, Any]:
    """Ternarizes canonical weights [..., out, in].

    Returns:
      trits int8 of `w`'s shape, and the scale (float32, see `absmean_scale`).
    """
    scale = absmean_scale(w, scale_kind, group_size, scale_dtype)
    return trits_of(w, scale, scale_kind, group_size), scale


def activation_scale(x: Any) -> Any:
    """``max(max|x| over the last axis, 1e-5)``, float32, shape [..., 1]."""
    xp = namespace(x)
    peak = xp.max(xp.abs(x.astype(np.float32)), axis=-1, keepdims=True, initial=0)
    return xp.maximum(peak, EPSILON)


def quantize_activations(x: Any) -> tuple[Any, Any]:
    """Per-token int8 activations: (q int8 of `x`'s shape, a float32 [..., 1])."""
    xp = namespace(x)
    a = activation_scale(x)
    q = xp.clip(xp.rint(x.astype(np.float32) * (ACTIVATION_MAX / a)), -128, 127)
    return q.astype(np.int8), a


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
    stack = trits.ndim - 2
    return QuantTensor(
        codes=pack_trits(trits),
        scale=scale,
        shape=tuple(trits.shape),
        dtype=dtype,
        stack_axes=tuple(range(stack)),
        out_axes=(stack,),
        in_axes=(stack + 1,),
        scale_kind=scale_kind,
        group_size=group_size,
        scale_dtype=scale_dtype,
    )
