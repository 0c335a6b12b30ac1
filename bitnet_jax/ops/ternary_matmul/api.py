"""`ternary_matmul`: the op as callers use it, with its checks and its gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.select import check_implementation
from bitnet_jax.ops.ternary_matmul.primitive import ternary_accumulate_p, ternary_matmul_p
from bitnet_jax.quant.packing import LAYOUT, unpack_trits
from bitnet_jax.quant.tensor import QuantTensor, broadcast_scale
from bitnet_jax.quant.ternary import (
    INVERSE_ACTIVATION_MAX,
    quantize_activations,
)

DTYPES = ("float32", "bfloat16")


def ternary_matmul(
    x: Array,
    w: QuantTensor,
    *,
    implementation: str | None = None,
    out_dtype: Any = None,
) -> Array:
    """As ``x @ w.weight().T`` with `x` rounded to 8 bits per token, codes never unpacked.

    x [..., in] gives [..., out]; a stacked `w` [*stack, out, in] takes x
    [*stack, ..., in] and gives [*stack, ..., out]. The sums are exact int32; the
    float32 operations and their order are those of `quant.ternary`, so every
    implementation and every number of threads gives the same bits.

    The gradient is straight-through: rounding activations counts as the identity, so
    x gets ``(g * s) @ trits`` in float32. The scale gets its true gradient. The codes
    are integers and get none: training changes masters, not packed weights.

    Args:
      implementation: None or "auto" for the best that runs here, or "native", "xla",
        "reference": a named one runs or raises `Unavailable` when lowered.
      out_dtype: float32 or bfloat16; `x`'s own dtype if None.
    """
    x = jnp.asarray(x)
    out = jnp.dtype(x.dtype if out_dtype is None else out_dtype).name
    _check(x, w, DTYPES)
    if out not in DTYPES:
        raise UsageError("op.dtype", f"ternary_matmul gives {' or '.join(DTYPES)}, not {out}")
    static = _Static(
        w.out_features,
        w.scale_kind,
        w.group_size,
        out,
        check_implementation("ternary_matmul", implementation),
    )
    x3, codes, scale, shape = _canonical(x, w)
    return _matmul(static, x3, codes, scale).reshape(shape)


def ternary_accumulate(q: Array, w: QuantTensor, *, implementation: str | None = None) -> Array:
    """The exact int32 sums: int8 [..., in] gives int32 [..., out]; scales are not used."""
    q = jnp.asarray(q)
    _check(q, w, ("int8",))
    x3, codes, _, shape = _canonical(q, w)
    acc = ternary_accumulate_p.bind(
        x3,
        codes,
        out_features=w.out_features,
        implementation=check_implementation("ternary_accumulate", implementation),
    )
    return acc.reshape(shape)


def _check(x: Array, w: QuantTensor, dtypes: tuple[str, ...]) -> None:
    if w.kind != "ternary" or w.layout != LAYOUT:
        raise UsageError(
            "op.layout",
            f"ternary_matmul takes ternary weights in layout {LAYOUT}, not {w.kind} in {w.layout}",
        )
    if x.dtype.name not in dtypes:
        raise UsageError(
            "op.dtype",
            f"ternary_matmul takes {' or '.join(dtypes)}, not {x.dtype.name}",
            f"cast with x.astype({dtypes[0]!r})",
        )
    if str(w.scale.dtype) != "float32":
        raise UsageError(
            "op.dtype",
            f"ternary_matmul takes float32 scales, not {w.scale.dtype}",
            "a QuantTensor's scale is float32; `scale_dtype` says what its source had",
        )
    if w.scale_kind == "group" and w.in_features == 0:
        raise UsageError("op.shape", "a weight without inputs has no groups")
    stack = w.stack_shape
    if x.ndim < len(stack) + 1 or x.shape[: len(stack)] != stack or x.shape[-1] != w.in_features:
        wanted = ", ".join([*(str(size) for size in stack), "...", str(w.in_features)])
        raise UsageError("op.shape", f"ternary_matmul needs x [{wanted}], found {list(x.shape)}")


def _canonical(x: Array, w: QuantTensor):
    """x [B, M, in], codes [B, OB, IB, 64], scale [B, ...], and the result's shape."""
    depth = len(w.stack_axes)
    stack, lead = x.shape[:depth], x.shape[depth:-1]
    batch, tokens = int(np.prod(stack)), int(np.prod(lead))
    codes = jnp.asarray(w.codes)
    scale = jnp.asarray(w.scale)
    return (
        x.reshape(batch, tokens, x.shape[-1]),
        codes.reshape(batch, *codes.shape[depth:]),
        scale.reshape(batch, *scale.shape[depth:]),
        (*stack, *lead, w.out_features),
    )


# ------------------------------------------------------------------------- gradient
class _Static(tuple):
    """Hashable parameters of one call: the primitive's, in the order of `NAMES`."""

    NAMES = ("out_features", "scale_kind", "group_size", "out_dtype", "implementation")

    def __new__(cls, *values):
        return super().__new__(cls, values)

    def params(self) -> dict[str, Any]:
        return dict(zip(self.NAMES, self, strict=True))


def _bind(static: _Static, x: Array, codes: Array, scale: Array) -> Array:
    return ternary_matmul_p.bind(x, codes, scale, **static.params())


_matmul = jax.custom_vjp(_bind, nondiff_argnums=(0,))


def _forward(static: _Static, x, codes, scale):
    # The scale's gradient needs x; keep it only when that gradient is wanted.
    kept = x.value if scale.perturbed else None
    like = jnp.zeros((0, x.value.shape[-1]), x.value.dtype)  # x's width and dtype, no data
    y = _bind(static, x.value, codes.value, scale.value)
    return y, (kept, like, codes.value, scale.value)


def _backward(static: _Static, kept, g):
    x, like, codes, scale = kept
    params = static.params()
    kind, group = params["scale_kind"], params["group_size"]
    if isinstance(g, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    g = g.astype(jnp.float32)
    trits = unpack_trits(codes, params["out_features"], like.shape[-1]).astype(jnp.float32)
    if kind == "group":
        dx = jnp.einsum("bmn,bnk->bmk", g, trits * broadcast_scale(scale, kind, group))
    else:
        wide = scale[:, None, None] if kind == "tensor" else scale[:, None, :]
        dx = jnp.einsum("bmn,bnk->bmk", g * wide, trits)
    return dx.astype(like.dtype), None, _scale_gradient(x, g, trits, kind, group)


def _scale_gradient(x, g: Array, trits: Array, kind: str, group: int) -> Array | None:
    if x is None:
        return None
    q, a = quantize_activations(x)
    rounded = q.astype(jnp.float32) * (a * INVERSE_ACTIVATION_MAX)
    each = jnp.einsum("bmn,bmk->bnk", g, rounded) * trits  # d loss / d (scale of one weight)
    if kind == "group":
        return each.reshape(*each.shape[:2], -1, group).sum(-1)
    return each.sum((1, 2) if kind == "tensor" else 2)


_matmul.defvjp(_forward, _backward, symbolic_zeros=True)
