"""The primitives: what passes and exporters match, and what each platform lowers.

`ternary_matmul_p` takes x [B, M, in], codes [B, OB, IB, 64] and scale [B, ...], and
gives [B, M, out]; `ternary_accumulate_p` takes int8 codes of activations and gives
the int32 sums. B is the stack (experts, scanned layers, a vmapped axis of weights).
Batching never broadcasts weights. Gradients stand at the op's edge, in api.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from bitnet_jax.ops.select import select
from bitnet_jax.ops.ternary_matmul import native, reference, xla

ternary_matmul_p = Primitive("ternary_matmul")
ternary_accumulate_p = Primitive("ternary_accumulate")

MODULES: dict[str, ModuleType] = {"native": native, "xla": xla, "reference": reference}
# Platforms with a row of their own in `select.TABLE`; any other lowers as "*".
PLATFORMS = ("cpu",)
# The name of each primitive's function in the modules above.
FUNCTIONS = {ternary_matmul_p: "matmul", ternary_accumulate_p: "accumulate"}


@ternary_matmul_p.def_abstract_eval
def _matmul_aval(x, codes, scale, *, out_features, out_dtype, **_):
    return ShapedArray((*x.shape[:2], out_features), jnp.dtype(out_dtype))


@ternary_accumulate_p.def_abstract_eval
def _accumulate_aval(q, codes, *, out_features, **_):
    return ShapedArray((*q.shape[:2], out_features), jnp.dtype(jnp.int32))


# ------------------------------------------------------------------ lowering, eager
def implementation_of(primitive: Primitive, platform: str, requested: str) -> Callable:
    """The chosen implementation's function for `primitive` on `platform`."""
    choice = select(primitive.name, platform, requested)
    return getattr(MODULES[choice.implementation], FUNCTIONS[primitive])


def _lowering(primitive: Primitive, platform: str) -> Callable:
    def rule(ctx: mlir.LoweringRuleContext, *operands, implementation, **params):
        function = implementation_of(primitive, platform, implementation)
        lower = mlir.lower_fun(partial(function, platform=platform), multiple_results=False)
        return lower(ctx, *operands, **params)

    return rule


@cache
def _jitted(primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Callable:
    return jax.jit(partial(primitive.bind, **dict(params)))


def _eager(primitive: Primitive, *operands, **params):
    return _jitted(primitive, tuple(sorted(params.items())))(*operands)


# ------------------------------------------------------------------------- batching
def _front(value: Array, axis: int | None) -> Array:
    return value if axis is None else jnp.moveaxis(value, axis, 0)


def _merge(value: Array) -> Array:
    return value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])


def _batch(primitive: Primitive, operands: Sequence[Array], axes: Sequence[int | None], **params):
    """Adds an axis: to the tokens if only x has it, to the stack if the weights do."""
    x, codes, *scale = (_front(v, axis) for v, axis in zip(operands, axes, strict=True))
    has_x, has_codes, *has_scale = (axis is not None for axis in axes)
    bind = partial(primitive.bind, **params)
    if not has_codes and any(has_scale):
        # Same codes under other scales: one product each, rather than copies of the codes.
        def one(each):
            x_i, scale_i = each
            return bind(x if x_i is None else x_i, codes, scale_i)

        return lax.map(one, (x if has_x else None, scale[0])), 0
    if not has_codes:
        n, batch, tokens, inputs = x.shape
        folded = jnp.moveaxis(x, 0, 1).reshape(batch, n * tokens, inputs)
        y = bind(folded, codes, *scale)
        return y.reshape(batch, n, tokens, y.shape[-1]), 1
    n, batch = codes.shape[:2]
    # Activations and scales are small beside the codes: these may be broadcast.
    x = x if has_x else jnp.broadcast_to(x, (n, *x.shape))
    scale = [
        s if has else jnp.broadcast_to(s, (n, *s.shape))
        for s, has in zip(scale, has_scale, strict=True)
    ]
    y = bind(_merge(x), _merge(codes), *(_merge(s) for s in scale))
    return y.reshape(n, batch, *y.shape[1:]), 0


for _primitive in FUNCTIONS:
    _primitive.def_impl(partial(_eager, _primitive))
    batching.primitive_batchers[_primitive] = partial(_batch, _primitive)
    mlir.register_lowering(_primitive, _lowering(_primitive, "other"))
    for _platform in PLATFORMS:
        mlir.register_lowering(_primitive, _lowering(_primitive, _platform), platform=_platform)
