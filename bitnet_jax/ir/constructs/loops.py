"""Loops: `scan` and `while`, whose carry may hold a weight and whose stacks hold one per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from bitnet_jax.core import jax_compat
from bitnet_jax.ir import arrange
from bitnet_jax.ir.constructs.forwarding import merged, others, passed_on
from bitnet_jax.ir.constructs.operands import settled
from bitnet_jax.ir.interpreter import Construct, Context
from bitnet_jax.ir.views import ParamView


def _scan_parts(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    consts, carry = jax_compat.scan_counts(eqn)
    return (
        list(values[:consts]),
        list(values[consts : consts + carry]),
        list(values[consts + carry :]),
    )


def _identity(array: Any, axis: int) -> Any:
    return array


def _scan_element(view: ParamView) -> ParamView | None:
    """The element that a scan takes; leaves are the stack's still.

    Of a stack that was regrouped (for nested scans) it is a smaller stack.
    """
    if not view.ndim:
        return None
    whole = arrange.element(view, 0, _identity, view.value, keep=False)
    return whole or arrange.part(view)


def _entering(context: Context, eqn: Any, view: Any, kept: Any, var: Any) -> Any:
    """What enters a body where `view` goes in: `kept` of it, or floats, by the mode's leave.

    A view that the construct's own rule makes an array must not be followed as a weight: the
    plan would count on a product that is then float.
    """
    if not isinstance(view, ParamView) or kept is not None:
        return view if kept is None else kept
    context.plain(eqn, [view])
    return var.aval


def _carry_entering(
    context: Context, eqn: Any, carry: Sequence[Any], passed: Mapping[int, Any], inputs: Any
) -> list[Any]:
    """The carry: a view that the body hands on stays one, one that it changes is floats."""
    return [
        _entering(context, eqn, value, passed.get(index), var)
        for index, (value, var) in enumerate(zip(carry, inputs, strict=True))
    ]


def _scan_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    consts, carry, stacks = _scan_parts(eqn, values)
    inputs = eqn.params["jaxpr"].jaxpr.invars[len(consts) :]
    entering = _carry_entering(context, eqn, carry, passed_on(eqn, values), inputs[: len(carry)])
    for stack, var in zip(stacks, inputs[len(carry) :], strict=True):
        element = _scan_element(stack) if isinstance(stack, ParamView) else var.aval
        entering.append(_entering(context, eqn, stack, element, var))
    return [(eqn.params["jaxpr"], [*consts, *entering])]


def _stack_first(view: ParamView, element: ParamView) -> list[Any]:
    """A view's leaves with the axis that a scan slices, or its major part, in front of each."""
    source = view.axes[0][0].axis
    regrouped = len(element.shape) == len(view.shape)
    count = view.axes[0][0].size if regrouped else view.current_shape[0]

    def first(array: Any, at: int) -> Any:
        if regrouped and array.shape[at] != 1:
            split = (count, array.shape[at] // count)
            array = array.reshape(*array.shape[:at], *split, *array.shape[at + 1 :])
            return jnp.moveaxis(array, at, 0)
        if regrouped:
            return jnp.broadcast_to(array, (count, *array.shape))
        moved = jnp.moveaxis(array, at, 0)
        return jnp.broadcast_to(moved, (count, *moved.shape[1:]))

    out = [] if view.value is None else [view.value]
    out += [first(array, source) for _, array in view.companions]
    for quant in view.quants:
        position = quant.stack_axes.index(source)
        out += [first(quant.codes, position), first(quant.scale, position)]
    return out


def _scan(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    params = eqn.params
    _, num_carry = jax_compat.scan_counts(eqn)
    closed = params["jaxpr"]
    consts, carry, stacks = _scan_parts(eqn, values)
    passed = passed_on(eqn, values)
    constant = {index: view for index, view in passed.items() if index < num_carry}
    states = [i for i in range(num_carry) if i not in constant]
    start = context.plain(eqn, [carry[i] for i in states])
    elements: list[ParamView | None] = []
    arrays: list[Any] = []
    for stack in stacks:
        element = _scan_element(stack) if isinstance(stack, ParamView) else None
        elements.append(element)
        if element is None:
            arrays.append(context.plain(eqn, [stack]))
        else:
            arrays.append(_stack_first(stack, element))
    consts = settled(context, consts)
    held = {index: context.mode.settle(view) for index, view in constant.items()}

    def body(state: Any, x: Any) -> tuple[Any, Any]:
        slices = [
            part[0] if element is None else element.with_leaves(part)
            for element, part in zip(elements, x, strict=True)
        ]
        now = dict(zip(states, state, strict=True)) | held
        args = [*consts, *(now[i] for i in range(num_carry)), *slices]
        out, seen = context.through(eqn, closed, args)
        made = context.plain(eqn, others(out, passed))
        return made[: len(states)], (made[len(states) :], seen)

    state, (ys, seen) = lax.scan(
        body,
        start,
        arrays,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    context.mode.add_seen(seen)  # one more axis in front: the scan's
    return merged([*state, *ys], passed)


def _while_parts(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    cond, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    return list(values[:cond]), list(values[cond : cond + body]), list(values[cond + body :])


def _while_bodies(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    cond, body, carry = _while_parts(eqn, values)
    params = eqn.params
    inputs = params["body_jaxpr"].jaxpr.invars[len(body) :]
    carry = _carry_entering(context, eqn, carry, passed_on(eqn, values), inputs)
    return [(params["body_jaxpr"], [*body, *carry]), (params["cond_jaxpr"], [*cond, *carry])]


def _while(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    cond_consts, body_consts, carry = _while_parts(eqn, values)
    constant = passed_on(eqn, values)
    states = [i for i in range(len(carry)) if i not in constant]
    held = {index: context.mode.settle(view) for index, view in constant.items()}
    cond_consts, body_consts = settled(context, cond_consts), settled(context, body_consts)

    def run(closed: Any, consts: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        now = dict(zip(states, state, strict=True)) | held
        args = [*consts, *(now[i] for i in range(len(carry)))]
        return context.shut(eqn, closed, args)

    def cond(state: Any) -> Any:
        return context.plain(eqn, run(eqn.params["cond_jaxpr"], cond_consts, state))[0]

    def body(state: Any) -> Any:
        out = run(eqn.params["body_jaxpr"], body_consts, state)
        return context.plain(eqn, [out[i] for i in states])

    state = lax.while_loop(cond, body, context.plain(eqn, [carry[i] for i in states]))
    return merged(state, constant)


SCAN = Construct(_scan_bodies, _scan, passed_on)
WHILE = Construct(_while_bodies, _while, passed_on)
