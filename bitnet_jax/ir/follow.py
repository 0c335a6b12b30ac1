"""The table that follows views: one row per primitive a parameter may pass through.

Rows that move a view give a view; rows with a sub-jaxpr go inside and rebuild the
construct through its public form (`lax.scan`, `jax.checkpoint`), because packed
leaves change the number of operands. A primitive with no row ends the journey:
the mode's `other` decides.

Knows nothing of quantization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.interpreter import Context, Rule, bind
from bitnet_jax.ir.views import Atom, Axes, ParamView, reshape_axes


def _moving(axes_of: Callable[[ParamView, dict[str, Any]], Axes | None]) -> Rule:
    """A row for a one-operand primitive that rearranges a view."""

    def rule(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
        (view,) = values
        axes = axes_of(view, eqn.params)
        if axes is None:
            return bind(eqn, context.plain(eqn, values))
        value = None if view.value is None else bind(eqn, [view.value])[0]
        return [view.moved(axes, value)]

    return rule


def _transpose(view: ParamView, params: dict[str, Any]) -> Axes:
    return tuple(view.axes[axis] for axis in params["permutation"])


def _reshape(view: ParamView, params: dict[str, Any]) -> Axes | None:
    if params.get("dimensions") is not None:
        return None
    return reshape_axes(view.axes, params["new_sizes"])


def _squeeze(view: ParamView, params: dict[str, Any]) -> Axes:
    gone = {axis % view.ndim for axis in params["dimensions"]}
    return tuple(atoms for axis, atoms in enumerate(view.axes) if axis not in gone)


def _broadcast(view: ParamView, params: dict[str, Any]) -> Axes | None:
    places = params["broadcast_dimensions"]
    new: list[tuple[Atom, ...]] = [()] * len(params["shape"])
    for place, atoms in zip(places, view.axes, strict=True):
        new[place] = atoms
    kept = [view.current_shape[places.index(i)] if i in places else 1 for i in range(len(new))]
    return tuple(new) if tuple(kept) == tuple(params["shape"]) else None


def _same(view: ParamView, params: dict[str, Any]) -> Axes:
    return view.axes


def _convert(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    (view,) = values
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return bind(eqn, context.plain(eqn, values))  # no view of a float parameter
    return [view.cast(eqn.params["new_dtype"])]


def _dot_general(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    lhs, rhs = values
    if isinstance(lhs, ParamView) and isinstance(rhs, ParamView):
        return bind(eqn, context.plain(eqn, values))
    side = int(isinstance(rhs, ParamView))
    view, other = (rhs, lhs) if side else (lhs, rhs)
    return [context.mode.dot(context, eqn, view, side, other)]


def _shift(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """A bias added to activations is no hidden product; a delta added to a weight may be.

    A bias is added to something wider than itself, or was given unit axes to be.
    """
    views = [value for value in values if isinstance(value, ParamView)]
    if len(views) == 1:
        (view,) = views
        other = next(value for value in values if value is not view)
        wider = math.prod(other.shape) > math.prod(view.current_shape)
        if wider or view.ndim > len(view.shape):
            kept = context.mode.keep(context, eqn, view)
            return bind(eqn, [kept if value is view else value for value in values])
    return bind(eqn, context.plain(eqn, values))


def _gather(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    operand, indices = values
    if isinstance(indices, ParamView) or not isinstance(operand, ParamView):
        return bind(eqn, context.plain(eqn, values))
    return [context.mode.gather(context, eqn, operand, indices)]


def _jit(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    # Inlined: XLA inlines calls anyway, and a view may come out of an inner jit
    # (jnp.transpose is one). Shardings would be lost, so they refuse; donation inside a
    # trace means nothing.
    unspecified = all(
        type(sharding).__name__ == "UnspecifiedValue"
        for key in ("in_shardings", "out_shardings")
        for sharding in eqn.params[key]
    )
    if not unspecified:
        raise UsageError(
            "transform.inner_sharding",
            f"a parameter enters an inner jit with shardings of its own{context.at(eqn)}",
            "put the shardings on the outer jit, or use lax.with_sharding_constraint outside",
        )
    closed = eqn.params["jaxpr"]
    return context.inside(eqn).run(closed.jaxpr, closed.consts, values)


def _flatten(values: Sequence[Any]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Splits values into arrays, and a function that puts other arrays in their place."""
    counts = [len(v.leaves()) if isinstance(v, ParamView) else 1 for v in values]
    leaves = [x for v in values for x in (v.leaves() if isinstance(v, ParamView) else [v])]

    def rebuild(arrays: Sequence[Any]) -> list[Any]:
        out, start = [], 0
        for value, count in zip(values, counts, strict=True):
            part = list(arrays[start : start + count])
            out.append(value.with_leaves(part) if isinstance(value, ParamView) else part[0])
            start += count
        return out

    return leaves, rebuild


def _remat(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    leaves, rebuild = _flatten(values)
    jaxpr = eqn.params["jaxpr"]

    def body(*arrays: Any) -> list[Any]:
        return context.plain(eqn, context.inside(eqn).run(jaxpr, (), rebuild(arrays)))

    # Quantization keeps the dot an ordinary dot_general, so the policy still sees it.
    return jax.checkpoint(body, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])(
        *leaves
    )


def _scan(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    params = eqn.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts = values[:num_consts]
    carry = context.plain(eqn, values[num_consts : num_consts + num_carry])
    stacks = list(values[num_consts + num_carry :])
    elements: list[Any] = []
    arrays: list[Any] = []
    for index, stack in enumerate(stacks):
        element = stack.element() if isinstance(stack, ParamView) else None
        if isinstance(stack, ParamView) and element is None:
            stack = context.mode.other(context, eqn, stack)
        elements.append(element)
        arrays.append(stack.leaves() if element is not None else [stack])
        if element is not None and stack.quant is not None:
            arrays[index] = _stack_first(stack)
    const_leaves, rebuild_consts = _flatten(consts)
    closed = params["jaxpr"]

    def body(state: Any, x: Any) -> tuple[Any, Any]:
        inner = [
            slices[0] if element is None else element.with_leaves(slices)
            for element, slices in zip(elements, x, strict=True)
        ]
        args = [*rebuild_consts(const_leaves), *state, *inner]
        inner_run = context.inside(eqn).run(closed.jaxpr, closed.consts, args)
        out = context.plain(eqn, inner_run)
        return out[:num_carry], out[num_carry:]

    state, ys = lax.scan(
        body,
        list(carry),
        arrays,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*state, *ys]


def _stack_first(stack: ParamView) -> list[Any]:
    """Leaves of a packed stack with the axis that scan slices moved to the front."""
    position = stack.stack_position()
    *value, codes, scale = stack.leaves()
    return [*value, jnp.moveaxis(codes, position, 0), jnp.moveaxis(scale, position, 0)]


FOLLOW: dict[str, Rule] = {
    "transpose": _moving(_transpose),
    "reshape": _moving(_reshape),
    "squeeze": _moving(_squeeze),
    "broadcast_in_dim": _moving(_broadcast),
    "convert_element_type": _convert,
    "copy": _moving(_same),
    "stop_gradient": _moving(_same),
    "sharding_constraint": _moving(_same),
    "copy_p": _moving(_same),
    "dot_general": _dot_general,
    "gather": _gather,
    "add": _shift,
    "sub": _shift,
    "jit": _jit,
    "remat2": _remat,
    "checkpoint": _remat,
    "scan": _scan,
}
