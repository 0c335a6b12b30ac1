"""The products of `quantize_linears`: QAT arithmetic in the user's own dimension order.

Each is jitted with everything static in one `Spec`, so that a decoder's hundreds of linears
are traced once per shape. Knows nothing of programs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import (
    DotGeometry,
    arranged_scale,
    canonical_matrix,
    source_scale,
)
from bitnet_jax.quant.activations import statistic
from bitnet_jax.quant.kinds import kind_scale
from bitnet_jax.quant.qat import (
    Arithmetic,
    activation_codes,
    exact_product,
    over_shards,
    qat_output,
    weight_codes,
)
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.scaling import read_input, scale_output, write_output
from bitnet_jax.quant.tensor import broadcast_scale

# The products' names in a program: what they hold has been quantized.
QAT_CALLS = frozenset({"qat_dot", "qat_ragged_dot"})


@dataclass(frozen=True)
class Spec:
    """Everything static about one quantized product: equal specs are traced once.

    Attributes:
      geometry: of the product, its view stripped of names and arrays.
      layout: of the scale, in the same axes.
      shards: mesh axes that the contracted axes are split over.
      equation: dimension numbers, precision, output sharding, as JAX's product takes them.
      out_dtype: of the equation's result.
    """

    geometry: DotGeometry
    layout: Any
    how: Arithmetic
    scale_kind: str
    group_size: int
    scale_dtype: str
    shards: tuple[str, ...]
    equation: tuple[Any, ...]
    out_dtype: str


def matrix_scale(matrix: Any, rule: Rule | Spec) -> Any:
    """The scale of a canonical matrix [*stack, out, in]."""
    kind = rule.to if isinstance(rule, Rule) else rule.how.kind
    return kind_scale(matrix, kind, rule.scale_kind, rule.group_size, rule.scale_dtype)


def view_scale(view: ParamView, roles: Any, rule: Rule | Spec) -> Any:
    """The scale of a view's canonical matrix, one axis per axis of `view.shape`."""
    matrix = read_input(lax.stop_gradient(canonical_matrix(view, roles)))
    return source_scale(matrix_scale(matrix, rule), view, roles, rule.scale_kind)


# Jitted so that a decoder's hundreds of linears are traced once per shape, not once each.
@functools.partial(jax.jit, static_argnames=("spec",))
def qat_dot(x: Any, w: Any, companions: dict[str, Any], lam: Any, *, spec: Spec) -> Any:
    """``dot_general`` of the quantized operands, in the equation's own axis order and dtype.

    Args:
      x, w: the operands, any float dtype.
      companions: ``scale``, a `source_scale` of the whole parameter (absent: `w` is the
        whole), and ``mask``, in the same axes as it.
      lam: traced λ in [0, 1], or None for exactly 1.
    """
    geometry = spec.geometry
    x, w = read_input(x), read_input(w)
    if spec.scale_kind == "group":
        return write_output(_grouped_dot(x, w, companions, lam, spec), spec.out_dtype)
    view = replace(geometry.view, value=w)
    wide, mask = _arranged(view, companions, spec)
    v, a = activation_codes(x, _peak(x, spec), spec.how, lam)
    p = weight_codes(w, wide, spec.how, lam, mask)
    dims, precision, out_sharding = spec.equation

    def product(v: Any, p: Any, dtype: Any) -> Any:
        operands = (v, p) if geometry.side else (p, v)
        return lax.dot_general(
            *operands, dims, precision, preferred_element_type=dtype, out_sharding=out_sharding
        )

    acc = exact_product(product, v, p, _inputs(spec), spec.how, lam)
    tokens = len(geometry.free_x(x.ndim))
    wide = geometry.weight_output(wide, tokens)
    y = qat_output(acc, wide, geometry.token_output(a), spec.how)
    return write_output(y, spec.out_dtype)


def _arranged(view: ParamView, companions: dict[str, Any], spec: Spec) -> tuple[Any, Any]:
    """Scale and mask (or None) in the view's arrangement."""
    scale, mask = companions.get("scale"), companions.get("mask")
    if scale is None:
        scale = view_scale(view, spec.layout, spec)
    return arranged_scale(scale, view), None if mask is None else arranged_scale(mask, view)


def _inputs(spec: Spec) -> int:
    shape = spec.geometry.view.shape
    inputs = 1
    for axis in spec.geometry.roles.inner:
        inputs *= shape[axis]
    return inputs


def _peak(x: Any, spec: Spec) -> Any:
    """The activations' statistic, 1 along contracted axes; of the whole token if it is split."""
    found = _token_statistic(spec.geometry.inner_last(x), spec)
    contracted = spec.geometry.contract_x
    return found.reshape([1 if i in contracted else n for i, n in enumerate(x.shape)])


def _token_statistic(x: Any, spec: Spec) -> Any:
    """Over the last axis of `x`, and over what other devices have of it."""
    activation = spec.how.activation
    return over_shards(statistic(lax.stop_gradient(x), activation), activation, spec.shards)


def _matrices(v: Any, p: Any, precision: Any, dtype: Any) -> Any:
    """[*stack, tokens, in] by [*stack, out, in] to [*stack, tokens, out]."""
    stack = tuple(range(v.ndim - 2))
    dims = (((v.ndim - 1,), (p.ndim - 1,)), (stack, stack))
    return lax.dot_general(v, p, dims, precision, preferred_element_type=dtype)


def _grouped_dot(x: Any, w: Any, companions: dict[str, Any], lam: Any, spec: Spec) -> Any:
    """The canonical matrices, one product per group of inputs."""
    geometry, size = spec.geometry, spec.group_size
    matrix = canonical_matrix(replace(geometry.view, value=w), spec.layout)
    scale = matrix_scale(lax.stop_gradient(matrix), spec)
    tokens = geometry.activation_matrix(x)
    peak = _token_statistic(tokens, spec)
    v, a = activation_codes(tokens, peak, spec.how, lam)
    mask = companions.get("mask")
    if mask is not None:
        view = replace(geometry.view, value=arranged_scale(mask, geometry.view))
        mask = canonical_matrix(view, spec.layout)
    p = weight_codes(matrix, broadcast_scale(scale, "group", size), spec.how, lam, mask)
    product = functools.partial(_dtype_last, spec.equation[1])
    acc = jnp.stack(
        [
            exact_product(
                product, v[..., at : at + size], p[..., at : at + size], size, spec.how, lam
            )
            for at in range(0, v.shape[-1], size)
        ]
    )
    y = scale_output(acc, scale, a, scale_kind="group", activation=spec.how.activation)
    return geometry.result(y, x.shape)


def _dtype_last(precision: Any, v: Any, p: Any, dtype: Any) -> Any:
    return _matrices(v, p, precision, dtype)


@functools.partial(jax.jit, static_argnames=("spec",))
def qat_ragged_dot(
    x: Any, w: Any, sizes: Any, companions: dict[str, Any], lam: Any, *, spec: Spec
) -> Any:
    """``ragged_dot`` of the quantized operands, [tokens, out] in the equation's dtype.

    Args:
      x: [tokens, in], tokens of one expert together.
      w: [experts, in, out].
      sizes: int [experts], tokens of each; rows beyond their sum give 0.
    """
    x, w = read_input(x), read_input(w)
    view = replace(spec.geometry.view, value=w)
    expert = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(x.shape[0]), side="right")
    known = jnp.minimum(expert, w.shape[0] - 1)
    v, a = activation_codes(x, _token_statistic(x, spec), spec.how, lam)

    def product(v: Any, p: Any, dtype: Any, sizes: Any) -> Any:
        return lax.ragged_dot(v, p, sizes, precision=spec.equation[0], preferred_element_type=dtype)

    def sums(v: Any, p: Any) -> Any:
        return exact_product(product, v, p, v.shape[1], spec.how, lam, (sizes,))

    mask = companions.get("mask")
    mask = None if mask is None else arranged_scale(mask, view)
    if spec.scale_kind == "group":
        size = spec.group_size
        scale = matrix_scale(lax.stop_gradient(canonical_matrix(view, spec.layout)), spec)
        wide = jnp.swapaxes(broadcast_scale(scale, "group", size), 1, 2)
        p = weight_codes(w, wide, spec.how, lam, mask)
        starts = range(0, x.shape[1], size)
        acc = jnp.stack([sums(v[:, at : at + size], p[:, at : at + size]) for at in starts])
        y = scale_output(
            acc[:, :, None],
            scale[known],
            a[..., None],
            scale_kind="group",
            activation=spec.how.activation,
        )[:, 0]
    else:
        wide, _ = _arranged(view, companions, spec)
        p = weight_codes(w, wide, spec.how, lam, mask)
        rows = jnp.broadcast_to(wide, (w.shape[0], *wide.shape[1:]))[known, 0]
        y = qat_output(sums(v, p), rows, a, spec.how)
    return write_output(jnp.where((expert < w.shape[0])[:, None], y, 0), spec.out_dtype)
