"""Calls: `jit`, inlined or kept with its shardings, and `remat` with its policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jec

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.constructs.forwarding import merged, others, passed_on
from bitnet_jax.ir.constructs.operands import flatten
from bitnet_jax.ir.interpreter import Construct, Context, Rule, Tangent
from bitnet_jax.ir.joined import apart
from bitnet_jax.ir.views import ParamView


def _inline(key: str) -> Rule:
    """A call is inlined: XLA inlines it anyway, and a view may come out of it."""

    def rule(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
        closed = eqn.params[key]
        return context.inside(eqn).run(closed.jaxpr, closed.consts, values)

    return rule


def call_jit(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Inlined, unless it has shardings of its own: those are kept with the call."""
    given = [*eqn.params["in_shardings"], *eqn.params["out_shardings"]]
    free = all(jax_compat.is_unspecified(sharding) for sharding in given)
    values = values if free else [apart(context, value) for value in values]
    derivative = any(isinstance(value, Tangent) for value in values)
    if free or context.abstract or derivative:
        out = _inline("jaxpr")(context, eqn, values)
        return out if free or derivative else context.plain(eqn, out)
    return _sharded_jit(context, eqn, values)


def _sharded_jit(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    params = eqn.params
    closed = params["jaxpr"]
    leaves, rebuild = flatten(values)

    def body(*arrays: Any) -> tuple[list[Any], Any]:
        inner, seen = context.through(eqn, closed, rebuild(arrays))
        return context.plain(eqn, inner), seen

    def named(sharding: Any) -> Any:
        return None if jax_compat.is_unspecified(sharding) else sharding

    shardings: list[Any] = []
    for value, sharding in zip(values, params["in_shardings"], strict=True):
        # A packed leaf or a scale has other axes than the array the sharding is for.
        has_array = not isinstance(value, ParamView) or value.value is not None
        extra = len(value.leaves()) - has_array if isinstance(value, ParamView) else 0
        shardings += [named(sharding)] * has_array + [None] * extra
    body.__name__ = params["name"]
    out, seen = jax.jit(
        body,
        in_shardings=tuple(shardings),
        out_shardings=([named(sharding) for sharding in params["out_shardings"]], None),
        keep_unused=params["keep_unused"],
        inline=params["inline"],
    )(*leaves)
    context.mode.add_seen(seen)
    return out


def _remat_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return [(jec.ClosedJaxpr(eqn.params["jaxpr"], ()), values)]


def _remat(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    leaves, rebuild = flatten(values)
    params = eqn.params
    closed = jec.ClosedJaxpr(params["jaxpr"], ())
    passed = passed_on(eqn, values)

    def body(*arrays: Any) -> tuple[list[Any], Any]:
        inner, seen = context.through(eqn, closed, rebuild(arrays))
        return context.plain(eqn, others(inner, passed)), seen

    # Quantization keeps the dot an ordinary dot_general, so the policy still sees it.
    again = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    out, seen = again(*leaves)
    context.mode.add_seen(seen)
    return merged(out, passed)


CLOSED_CALL = _inline("call_jaxpr")
REMAT = Construct(_remat_bodies, _remat, passed_on)
