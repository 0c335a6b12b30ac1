"""Lowering, eager runs and batching of a primitive that multiplies by packed weights.

Each implementation is a module with one function per primitive; `select.py` says which
of them a platform gets. Batching never broadcasts weights. Knows nothing of what the
functions compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from bitnet_jax.ops.eager import eager
from bitnet_jax.ops.select import select

# What an operand has one of each of: all have a leading stack axis B.
TOKENS, CODES, SCALE = "tokens", "codes", "scale"  # [B, M, ...], [B, ...], [B, ...]
# Platforms with a row of their own in `select.TABLE`; any other lowers as "*".
PLATFORMS = ("cpu",)


def install(
    primitive: Primitive, function: str, modules: Mapping[str, ModuleType], roles: Sequence[str]
) -> None:
    """Gives `primitive` its lowerings, its eager form and its batching rule.

    Args:
      function: its name in each of `modules`; called as
        ``function(*operands, platform=..., **params)`` without ``implementation``.
      modules: by the names that `select.TABLE` has under the primitive's name. One that
        does not take every call has a function ``refusal(*avals, **params)``, which says
        what it does not take, or None.
      roles: of the operands in order; those at the end may be left out.
    """

    def lowering(platform: str) -> Callable:
        def rule(ctx: mlir.LoweringRuleContext, *operands, implementation, **params):
            refusals = _refusals(modules, ctx.avals_in, params)
            choice = select(primitive.name, platform, implementation, refusals)
            chosen = getattr(modules[choice.implementation], function)
            lower = mlir.lower_fun(partial(chosen, platform=platform), multiple_results=False)
            return lower(ctx, *operands, **params)

        return rule

    primitive.def_impl(partial(eager, primitive))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, tuple(roles))
    mlir.register_lowering(primitive, lowering("other"))
    for platform in PLATFORMS:
        mlir.register_lowering(primitive, lowering(platform), platform=platform)


def _refusals(
    modules: Mapping[str, ModuleType], avals: Sequence[Any], params: Mapping[str, Any]
) -> dict[str, str]:
    """Implementation -> what it does not take of this call."""
    asked = {name: getattr(module, "refusal", None) for name, module in modules.items()}
    found = {name: ask(*avals, **params) for name, ask in asked.items() if ask is not None}
    return {name: why for name, why in found.items() if why is not None}


# ------------------------------------------------------------------------- batching
def _batch(
    primitive: Primitive,
    roles: tuple[str, ...],
    operands: Sequence[Array],
    axes: Sequence[int | None],
    **params,
):
    """Adds an axis: to the tokens if only they have it, to the stack if the weights do."""
    bind = partial(primitive.bind, **params)
    roles = roles[: len(operands)]
    has = [axis is not None for axis in axes]
    values = [
        value if axis is None else jnp.moveaxis(value, axis, 0)
        for value, axis in zip(operands, axes, strict=True)
    ]
    batched = {role for role, own in zip(roles, has, strict=True) if own}
    if CODES not in batched and SCALE in batched:
        # Same codes under other scales: one product each, rather than copies of the codes.
        def one(own):
            rest = iter(own)
            return bind(*(next(rest) if h else v for v, h in zip(values, has, strict=True)))

        return lax.map(one, tuple(v for v, h in zip(values, has, strict=True) if h)), 0
    n = next(value.shape[0] for value, own in zip(values, has, strict=True) if own)
    # Activations and scales are small beside the codes: these may be broadcast.
    wanted = set(roles) if CODES in batched else {TOKENS}
    values = [
        value if own or role not in wanted else jnp.broadcast_to(value, (n, *value.shape))
        for value, own, role in zip(values, has, roles, strict=True)
    ]
    _, stack, tokens = values[0].shape[:3]  # of x, the first operand
    if CODES in batched:
        y = bind(*(_merge(value) for value in values))
        return y.reshape(n, stack, *y.shape[1:]), 0
    y = bind(
        *(
            _merge_tokens(value) if role == TOKENS else value
            for value, role in zip(values, roles, strict=True)
        )
    )
    return y.reshape(stack, n, tokens, y.shape[-1]), 1


def _merge(value: Array) -> Array:
    """[n, B, ...] to [n·B, ...]."""
    return value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])


def _merge_tokens(value: Array) -> Array:
    """[n, B, M, ...] to [B, n·M, ...]."""
    n, stack, tokens, *rest = value.shape
    return jnp.moveaxis(value, 0, 1).reshape(stack, n * tokens, *rest)
