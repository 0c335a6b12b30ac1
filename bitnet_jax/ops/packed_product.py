"""What the products with packed weights share: checks, shapes, sums and the gradient.

`ternary_matmul` and `integer_matmul` are this with one primitive each. Knows nothing
of platforms: see `packed_primitive.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.select import check_implementation
from bitnet_jax.quant.activations import DEFAULT, Activation, quantize
from bitnet_jax.quant.layouts import unpack_codes
from bitnet_jax.quant.scaling import read_input, scale_output, write_output
from bitnet_jax.quant.tensor import QuantTensor, broadcast_scale

# dot_general dimension numbers of [B, M, in] x [B, out, in] -> [B, M, out]
BATCHED_NK = (((2,), (2,)), ((0,), (0,)))


# ----------------------------------------------------------------------------- values
def dot_int32(q: Array, codes: Array) -> Array:
    """Exact product: int8 [B, M, in] x int8 [B, out, in] -> int32 [B, M, out]."""
    return lax.dot_general(q, codes, BATCHED_NK, preferred_element_type=jnp.int32)


def dot_groups(q: Array, codes: Array, group: int) -> Array:
    """Exact product of each group of inputs by itself: int32 [G, B, M, out]."""
    batch, tokens, inputs = q.shape
    groups = inputs // group
    q = q.reshape(batch, tokens, groups, group)
    codes = codes.reshape(batch, codes.shape[1], groups, group)
    # Batched over [B, G], contracted within the group.
    dims = (((3,), (3,)), ((0, 2), (0, 2)))
    acc = lax.dot_general(q, codes, dims, preferred_element_type=jnp.int32)
    return jnp.moveaxis(acc, 1, 0)


def sums(q: Array, codes: Array, scale_kind: str, group_size: int) -> Array:
    """The exact sums that `scale_output` takes, of int8 q [B, M, in], codes [B, out, in]."""
    return dot_groups(q, codes, group_size) if scale_kind == "group" else dot_int32(q, codes)


def product(
    x: Array,
    scale: Array,
    accumulate: Callable[[Array], Array],
    *,
    scale_kind: str,
    out_dtype: str,
    activation: Activation = DEFAULT,
    peak: Array | None = None,
) -> Array:
    """Float [B, M, in] -> `out_dtype` [B, M, out]: the contract around exact sums.

    Args:
      accumulate: int8 activations [B, M, in] to int32 sums, as `sums` gives them.
    """
    q, a, _ = quantize(read_input(x), activation, peak)
    acc = accumulate(q).astype(jnp.float32)
    y = scale_output(acc, scale, a, scale_kind=scale_kind, activation=activation)
    return write_output(y, out_dtype)


# ------------------------------------------------------------------ checks and shapes
def check_operands(op: str, x: Array, w: QuantTensor, dtypes: tuple[str, ...]) -> None:
    """Raises `UsageError` (``op.dtype``, ``op.shape``) unless `op` can multiply x by w."""
    if x.dtype.name not in dtypes:
        raise UsageError(
            "op.dtype",
            f"{op} takes {' or '.join(dtypes)}, not {x.dtype.name}",
            f"cast with x.astype({dtypes[0]!r})",
        )
    if str(w.scale.dtype) != "float32":
        raise UsageError(
            "op.dtype",
            f"{op} takes float32 scales, not {w.scale.dtype}",
            "a QuantTensor's scale is float32; `scale_dtype` says what its source had",
        )
    if w.scale_kind == "group" and w.in_features == 0:
        raise UsageError("op.shape", "a weight without inputs has no groups")
    stack = w.stack_shape
    if x.ndim < len(stack) + 1 or x.shape[: len(stack)] != stack or x.shape[-1] != w.in_features:
        wanted = ", ".join([*(str(size) for size in stack), "...", str(w.in_features)])
        raise UsageError("op.shape", f"{op} needs x [{wanted}], found {list(x.shape)}")


def _output_dtype(op: str, x: Array, out_dtype: Any, dtypes: tuple[str, ...]) -> str:
    out = jnp.dtype(x.dtype if out_dtype is None else out_dtype).name
    if out not in dtypes:
        raise UsageError("op.dtype", f"{op} gives {' or '.join(dtypes)}, not {out}")
    return out


def canonical(x: Array, w: QuantTensor) -> tuple[Array, Array, Array, tuple[int, ...]]:
    """x [B, M, in], codes [B, ...], scale [B, ...], and the result's shape."""
    depth = len(w.stack_axes)
    stack, lead = x.shape[:depth], x.shape[depth:-1]
    batch, tokens = math.prod(stack), math.prod(lead)  # sizes may be symbols
    codes = jnp.asarray(w.codes)
    scale = jnp.asarray(w.scale)
    return (
        x.reshape(batch, tokens, x.shape[-1]),
        codes.reshape(batch, *codes.shape[depth:]),
        scale.reshape(batch, *scale.shape[depth:]),
        (*stack, *lead, w.out_features),
    )


# ------------------------------------------------------------------------- gradient
@dataclass(frozen=True)
class Call:
    """What is static in one product: the primitive with its parameters, and the arithmetic."""

    primitive: Primitive
    params: tuple[tuple[str, Any], ...]
    layout: str
    activation: Activation

    def __getitem__(self, name: str) -> Any:
        """One of the primitive's parameters."""
        return dict(self.params)[name]


def _bind(call: Call, x: Array, codes: Array, scale: Array, peak: Array | None) -> Array:
    operands = (x, codes, scale) if peak is None else (x, codes, scale, peak)
    return call.primitive.bind(*operands, **dict(call.params))


# The product [B, M, out], straight-through in x and true in the scale; `peak` has none.
_straight_through = jax.custom_vjp(_bind, nondiff_argnums=(0,))


def _forward(call: Call, x, codes, scale, peak):
    plain = None if peak is None else peak.value
    # The scale's gradient needs x; keep it only when that gradient is wanted.
    kept = (x.value, plain) if scale.perturbed else None
    like = jnp.zeros((0, x.value.shape[-1]), x.value.dtype)  # x's width and dtype, no data
    y = _bind(call, x.value, codes.value, scale.value, plain)
    return y, (kept, like, codes.value, scale.value)


def _backward(call: Call, residuals, g):
    kept, like, codes, scale = residuals
    kind, group = call["scale_kind"], call["group_size"]
    if isinstance(g, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    g = g.astype(jnp.float32)
    matrix = unpack_codes(codes, call.layout, call["out_features"], like.shape[-1])
    matrix = matrix.astype(jnp.float32)
    if kind == "group":
        dx = jnp.einsum("bmn,bnk->bmk", g, matrix * broadcast_scale(scale, kind, group))
    else:
        wide = scale[:, None, None] if kind == "tensor" else scale[:, None, :]
        dx = jnp.einsum("bmn,bnk->bmk", g * wide, matrix)
    d_scale = None if kept is None else _scale_gradient(call, kept, g, matrix)
    return dx.astype(like.dtype), None, d_scale, None


def _scale_gradient(call: Call, kept: tuple[Array, Array | None], g: Array, matrix: Array) -> Array:
    x, peak = kept
    q, _, token_scale = quantize(x, call.activation, peak)
    rounded = q.astype(jnp.float32) * token_scale
    # d loss / d (scale of one weight)
    each = jnp.einsum("bmn,bmk->bnk", g, rounded) * matrix
    if call["scale_kind"] == "group":
        return each.reshape(*each.shape[:2], -1, call["group_size"]).sum(-1)
    return each.sum((1, 2) if call["scale_kind"] == "tensor" else 2)


_straight_through.defvjp(_forward, _backward, symbolic_zeros=True)


# -------------------------------------------------------------------------- the whole
def multiply(
    primitive: Primitive,
    x: Array,
    w: QuantTensor,
    *,
    dtypes: tuple[str, ...],
    implementation: str | None,
    out_dtype: Any,
    activation: Activation = DEFAULT,
    peak: Array | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Array:
    """Checks, shapes and binds: x [*stack, ..., in] to [*stack, ..., out].

    Args:
      primitive: takes x [B, M, in], codes [B, ...], scale [B, ...] and, unless None,
        peak [B, M, 1]; its name is the op's.
      dtypes: that x and the result may have.
      extra: parameters of the primitive beside what every product has.
    """
    check_operands(primitive.name, x, w, dtypes)
    shared = {
        "out_features": w.out_features,
        "scale_kind": w.scale_kind,
        "group_size": w.group_size,
        "out_dtype": _output_dtype(primitive.name, x, out_dtype, dtypes),
        "implementation": check_implementation(primitive.name, implementation),
    }
    call = Call(primitive, tuple({**shared, **(extra or {})}.items()), w.layout, activation)
    x3, codes, scale, shape = canonical(x, w)
    if peak is not None:
        peak = jnp.asarray(peak).reshape(*x3.shape[:2], 1)
    return _straight_through(call, x3, codes, scale, peak).reshape(shape)
