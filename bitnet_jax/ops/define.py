"""Making a primitive from a function that says what the op means.

A primitive keeps the op whole in a jaxpr, so that passes and exporters match it by
name instead of a pile of reshapes. Its derivative and batching come from the reference,
and so does its lowering, except where a native form is given and can run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jec
from jax.interpreters import ad, batching, mlir

from bitnet_jax.core import jax_compat
from bitnet_jax.ops.select import AUTO, select


def define(
    name: str, reference: Callable[..., Any], *, native: Callable[..., Any] | None = None
) -> jec.Primitive:
    """Returns the primitive `name`: as ``reference(*arrays, **static)``, one result.

    Works under jit, vmap, grad and jvp; differentiation and batching decompose it.

    Args:
      name: with a `native` form, also its row in `select.TABLE`.
      native: called as `reference`, for the CPU, where `select` chooses it. The primitive
        then has the further parameter ``implementation`` ("auto" if left out), and a
        derivative leaves the value's bits alone.
    """
    primitive = jec.Primitive(name)

    def bound(params: dict[str, Any]) -> Callable[..., Any]:
        own = {key: value for key, value in params.items() if key != "implementation"}
        return functools.partial(reference, **own)

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        filled = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
        out, tangent = jax.jvp(bound(params), tuple(primals), filled)
        return (out if native is None else primitive.bind(*primals, **params)), tangent

    def batch(args: Any, axes: Any, **params: Any) -> Any:
        in_axes = tuple(None if axis is None else axis for axis in axes)
        return jax.vmap(bound(params), in_axes=in_axes)(*args), 0

    def abstract(*avals: Any, **params: Any) -> Any:
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        out = jax.eval_shape(bound(params), *specs)
        return jax_compat.result_aval(out.shape, out.dtype, *avals)

    # One compiled function per set of parameters, or every eager call would compile anew.
    @functools.cache
    def jitted(params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **dict(params)))

    primitive.def_impl(lambda *args, **params: jitted(tuple(sorted(params.items())))(*args))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    if native is None:
        mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=False))
    else:
        _register(primitive, {"reference": reference, "native": native})
    return primitive


def _register(primitive: jec.Primitive, forms: dict[str, Callable[..., Any]]) -> None:
    """Lowerings by `select`, for the CPU and for everything else."""

    def lowering(platform: str) -> Callable[..., Any]:
        def rule(ctx: Any, *operands: Any, implementation: str = AUTO, **params: Any) -> Any:
            chosen = forms[select(primitive.name, platform, implementation).implementation]
            return mlir.lower_fun(chosen, multiple_results=False)(ctx, *operands, **params)

        return rule

    mlir.register_lowering(primitive, lowering("other"))
    mlir.register_lowering(primitive, lowering("cpu"), platform="cpu")
