"""Making a primitive from a function that says what the op means.

A primitive keeps the op whole in a jaxpr, so that passes and exporters match it by
name instead of a pile of reshapes. Its lowering, derivative and batching come from
the reference; a faster lowering is registered per platform beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jec
from jax.interpreters import ad, batching, mlir

from bitnet_jax.core import jax_compat
from bitnet_jax.ops.eager import eager
from bitnet_jax.ops.select import AUTO, select


def _always(*avals: Any) -> bool:
    return True


def define(
    name: str,
    reference: Callable[..., Any],
    *,
    like_first: bool = False,
    native: Callable[..., Any] | None = None,
    fits: Callable[..., bool] = _always,
    value_kept: bool = False,
) -> jec.Primitive:
    """Returns the primitive `name`: as ``reference(*arrays, **static)``, one result.

    Works under jit, vmap, grad and jvp; differentiation and batching decompose it.

    Args:
      like_first: the result has the type of the first array, its sharding included.
      native: the same, by the C++ kernels: taken on CPU where they run and the operands fit.
        Such an op has a row in `select.TABLE`, and its primitive may have the further
        parameter ``implementation``; left out, it is the reference, which XLA can shard,
        export and differentiate.
      fits: says so of the operands' abstract values.
      value_kept: under a derivative, too, the value is the native form's, in every bit; else
        it is the reference's, of which the derivative needs the parts.
    """
    primitive = jec.Primitive(name)

    def bound(params: dict[str, Any]) -> Callable[..., Any]:
        own = {key: value for key, value in params.items() if key != "implementation"}
        return functools.partial(reference, **own)

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        filled = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
        out, tangent = jax.jvp(bound(params), tuple(primals), filled)
        return (primitive.bind(*primals, **params) if value_kept else out), tangent

    def batch(args: Any, axes: Any, **params: Any) -> Any:
        in_axes = tuple(None if axis is None else axis for axis in axes)
        return jax.vmap(bound(params), in_axes=in_axes)(*args), 0

    def abstract(*avals: Any, **params: Any) -> Any:
        if like_first:
            return avals[0]
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        out = jax.eval_shape(bound(params), *specs)
        return jax_compat.result_aval(out.shape, out.dtype, *avals)

    primitive.def_impl(functools.partial(eager, primitive))
    primitive.def_abstract_eval(abstract)
    _lower(primitive, reference, native, fits)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def define_fused(
    name: str,
    reference: Callable[..., Any],
    *,
    native: Callable[..., Any],
    fits: Callable[..., bool] = _always,
) -> jec.Primitive:
    """Returns the primitive `name` with several results: what a pass makes of several ops.

    It stands in programs that are only run: it has no derivative and no batching rule.

    Args:
      reference: as ``reference(*arrays, **static)``, a sequence of results.
      native: the same, by the C++ kernels: taken on CPU where they run and the operands fit.
      fits: says so of the operands' abstract values.
    """
    primitive = jec.Primitive(name)
    primitive.multiple_results = True

    def abstract(*avals: Any, **params: Any) -> Any:
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        outs = jax.eval_shape(functools.partial(reference, **params), *specs)
        return [jax_compat.result_aval(out.shape, out.dtype, *avals) for out in outs]

    primitive.def_impl(functools.partial(eager, primitive))
    primitive.def_abstract_eval(abstract)
    _lower(primitive, reference, native, fits)
    return primitive


def _lower(
    primitive: jec.Primitive,
    reference: Callable[..., Any],
    native: Callable[..., Any] | None,
    fits: Callable[..., bool],
) -> None:
    several = primitive.multiple_results
    default = AUTO if several else "reference"  # what a pass made is there to be fast
    if native is None:
        mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=several))
        return

    def on_cpu(ctx: Any, *operands: Any, implementation: str = default, **params: Any) -> Any:
        usable = implementation != AUTO or fits(*ctx.avals_in)
        chosen = usable and select(primitive.name, "cpu", implementation).implementation
        form = native if chosen == "native" else reference
        return mlir.lower_fun(form, multiple_results=several)(ctx, *operands, **params)

    def elsewhere(ctx: Any, *operands: Any, implementation: str = default, **params: Any) -> Any:
        select(primitive.name, "other", implementation)
        return mlir.lower_fun(reference, multiple_results=several)(ctx, *operands, **params)

    mlir.register_lowering(primitive, elsewhere)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
