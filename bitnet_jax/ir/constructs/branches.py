"""Branches: `cond`, `switch`, and the branch that the platform chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

from bitnet_jax.ir.constructs.forwarding import merged, others, passed_on
from bitnet_jax.ir.constructs.operands import flatten
from bitnet_jax.ir.interpreter import Construct, Context


def _cond_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return [(branch, values[1:]) for branch in eqn.params["branches"]]


def _cond(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    index, *operands = values
    leaves, rebuild = flatten(operands)
    passed = passed_on(eqn, values)

    def branch(closed: Any) -> Callable[..., list[Any]]:
        def body(*arrays: Any) -> list[Any]:
            out = context.shut(eqn, closed, rebuild(arrays))
            return context.plain(eqn, others(out, passed))

        return body

    bodies = [branch(closed) for closed in eqn.params["branches"]]
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return merged(lax.switch(index, bodies, *leaves), passed)
    # `lax.platform_dependent`: the index is the platform's, known when it is lowered.
    chosen: dict[str, Any] = {}
    for names, body in zip(platforms, bodies, strict=True):
        chosen |= {name: body for name in names or ("default",)}
    return merged(lax.platform_dependent(*leaves, **chosen), passed)


COND = Construct(_cond_bodies, _cond, passed_on)
