"""Rules: calls, whose bodies stand in their place, and loops and branches.

A scan is a Loop that gathers its step's slices and piles up its results; packed weights that
it runs over are gathered by their stacked axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jec
import numpy as np
import onnx
from onnx import helper

from bitnet_jax.core import jax_compat
from bitnet_jax.export.builder import ONNX_TYPES, Scope, live_nodes
from bitnet_jax.export.dims import is_static
from bitnet_jax.export.lowering import Lowering, Rule
from bitnet_jax.export.weights import Codes


def call(parameter: str) -> Rule:
    """A rule for a call whose body is that parameter."""

    def rule(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
        body = eqn.params[parameter]
        closed = body if isinstance(body, jec.ClosedJaxpr) else jec.ClosedJaxpr(body, ())
        return low.inside(eqn).run(closed.jaxpr, closed.consts, values)

    return rule


def _typed(name: str, aval: Any) -> onnx.ValueInfoProto:
    shape = [int(dim) if is_static(dim) else str(dim) for dim in aval.shape]
    return helper.make_tensor_value_info(name, ONNX_TYPES[str(aval.dtype)], shape)


_BOOL = ONNX_TYPES["bool"]


def _graph(
    scope: Scope, name: str, inputs: Sequence[Any], outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.GraphProto:
    nodes, _ = live_nodes(scope.nodes, [item.name for item in outputs])
    return helper.make_graph(nodes, name, list(inputs), list(outputs))


def _plain(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[str]:
    for value in values:
        if isinstance(value, Codes):
            raise low.refuse(
                eqn, f"packed codes (`{value.leaf}`) are carried around", "close over the parameter"
            )
    return list(values)


# ---------------------------------------------------------------------------------------- scan
def _scan(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
    b, body = low.builder, eqn.params["jaxpr"]
    constants, carried = jax_compat.scan_counts(eqn)
    consts, start = values[:constants], values[constants : constants + carried]
    xs = values[constants + carried :]
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    avals = body.in_avals[constants : constants + carried]
    with b.body() as scope:
        step, going = b.name("step"), b.name("going")
        names = [b.name("carried") for _ in avals]
        index = step
        if reverse:
            index = b.op("Sub", b.op("Sub", low.dims.scalar(length), step), low.scalar(1, "int64"))
        slices = [_element(low, x, index) for x in xs]
        out = low.inside(eqn).run(body.jaxpr, body.consts, [*consts, *names, *slices])
        results = [b.output(value) for value in _plain(low, eqn, out)]
        inputs = [
            helper.make_tensor_value_info(step, ONNX_TYPES["int64"], []),
            helper.make_tensor_value_info(going, _BOOL, []),
            *map(_typed, names, avals),
        ]
        outputs = [
            helper.make_tensor_value_info(b.output(going), _BOOL, []),
            *map(_typed, results, body.out_avals),
        ]
        graph = _graph(scope, b.name("scan"), inputs, outputs)
    begin = _plain(low, eqn, start)
    if not results:
        return []
    ends = b.ops("Loop", low.dims.scalar(length), "", *begin, results=len(results), body=graph)
    stacked = list(ends[carried:])
    if reverse:
        stacked = [b.slice(y, 0, -1, np.iinfo(np.int64).min, -1) for y in stacked]
    return [*ends[:carried], *stacked]


def _element(low: Lowering, x: Any, index: str) -> Any:
    """Element `index` of the first axis."""
    if isinstance(x, Codes):
        return x.then(x.lead[1:], lambda name: low.builder.op("Gather", name, index, axis=0))
    return low.builder.op("Gather", x, index, axis=0)


# --------------------------------------------------------------------------------------- while
def _while(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
    b, p = low.builder, eqn.params
    of_cond, of_body = p["cond_nconsts"], p["body_nconsts"]
    cond_consts, body_consts = values[:of_cond], values[of_cond : of_cond + of_body]
    start = _plain(low, eqn, values[of_cond + of_body :])
    cond, body = p["cond_jaxpr"], p["body_jaxpr"]
    inner = low.inside(eqn)

    def goes_on(state: Sequence[Any]) -> str:
        (truth,) = inner.run(cond.jaxpr, cond.consts, [*cond_consts, *state])
        return str(truth)

    first = goes_on(start)
    with b.body() as scope:
        step, going = b.name("step"), b.name("going")
        names = [b.name("carried") for _ in start]
        out = inner.run(body.jaxpr, body.consts, [*body_consts, *names])
        results = [b.output(value) for value in _plain(low, eqn, out)]
        truth = b.output(goes_on(out))
        inputs = [
            helper.make_tensor_value_info(step, ONNX_TYPES["int64"], []),
            helper.make_tensor_value_info(going, _BOOL, []),
            *map(_typed, names, body.out_avals),
        ]
        outputs = [
            helper.make_tensor_value_info(truth, _BOOL, []),
            *map(_typed, results, body.out_avals),
        ]
        graph = _graph(scope, b.name("while"), inputs, outputs)
    if not results:
        return []
    return list(b.ops("Loop", "", first, *start, results=len(results), body=graph))


# ---------------------------------------------------------------------------------------- cond
def _cond(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
    which, *operands = values
    branches = eqn.params["branches"]
    b, inner = low.builder, low.inside(eqn)
    number = b.cast(which, "int64")
    if not eqn.outvars:
        return []

    def branch(make: Callable[[], Sequence[str]]) -> onnx.GraphProto:
        with b.body() as scope:
            results = [b.output(value) for value in make()]
            outputs = [_typed(n, var.aval) for n, var in zip(results, eqn.outvars, strict=True)]
            return _graph(scope, b.name("branch"), [], outputs)

    def run(index: int) -> list[str]:
        closed = branches[index]
        return _plain(low, eqn, inner.run(closed.jaxpr, closed.consts, operands))

    def choose(index: int) -> list[str]:
        """Branch `index` or a later one; an index out of range takes the nearest, as in JAX."""
        if index == len(branches) - 1:
            return run(index)
        here = b.op("LessOrEqual", number, low.scalar(index, "int64"))
        return list(
            b.ops(
                "If",
                here,
                results=len(eqn.outvars),
                then_branch=branch(lambda: run(index)),
                else_branch=branch(lambda: choose(index + 1)),
            )
        )

    return choose(0)


RULES: dict[str, Rule] = {
    "jit": call("jaxpr"),
    "pjit": call("jaxpr"),
    "closed_call": call("call_jaxpr"),
    "checkpoint": call("jaxpr"),
    "remat2": call("jaxpr"),
    "custom_jvp_call": call("call_jaxpr"),
    "custom_vjp_call": call("call_jaxpr"),
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}

# Packed codes go into calls and bodies as they are.
ON_CODES: dict[str, Rule] = dict(RULES)
