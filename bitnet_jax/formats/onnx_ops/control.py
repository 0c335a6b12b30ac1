"""Control flow and sequences. A branch or a body comes as a function of values (`Body`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.onnx_ops.table import Node, as_jax, axis_of, ints, is_static, operator, xp

# A loop of a known, small count is written out: what it makes may change its shape.
UNROLLED = 64


class Body(Protocol):
    """A subgraph: its inputs' values to its outputs', seeing the values around it."""

    def __call__(self, *values: Any) -> list[Any]: ...


@operator("If")
def if_(node: Node, condition: Any) -> Any:
    """A known condition chooses while tracing; else both branches are traced."""
    then, other = node.need("then_branch"), node.need("else_branch")
    if is_static(condition):
        return tuple((then if bool(condition.reshape(-1)[0]) else other)())
    return tuple(
        jax.lax.cond(
            jnp.reshape(condition, ()),
            lambda: [as_jax(value) for value in then()],
            lambda: [as_jax(value) for value in other()],
        )
    )


@operator("Loop", static=(0,), notes="a count that is known while tracing, or no scan outputs")
def loop(node: Node, count: Any = None, go: Any = None, *carried: Any) -> Any:
    body: Body = node.need("body")
    most = None if count is None else int(count.reshape(()))
    if (
        most is not None
        and most <= UNROLLED
        and (go is None or is_static(go))
        and (found := _written_out(body, most, go, carried)) is not None
    ):
        return found
    if node.outputs > len(carried):
        raise node.unsupported(
            "a loop that gathers outputs and whose count only its run decides",
            "bind the input that the count depends on: from_onnx(path, bind={name: value})",
        )
    return _while(body, most, go, [as_jax(value) for value in carried])


def _written_out(body: Body, most: int, go: Any, carried: Sequence[Any]) -> Any:
    """The loop, step by step; None where only its run decides when it ends."""
    values, gathered = list(carried), []
    for step in range(most):
        if go is not None and not bool(go.reshape(-1)[0]):
            break
        go, *made = body(np.array(step, np.int64), np.array(True), *values)
        if not is_static(go):
            return None
        values, outputs = made[: len(values)], made[len(values) :]
        gathered.append(outputs)
    stacked = [xp(*parts).stack(parts) for parts in zip(*gathered, strict=True)]
    return (*values, *stacked)


def _while(body: Body, most: int | None, go: Any, carried: list[Any]) -> Any:
    def more(state: Any) -> Any:
        step, going, _ = state
        return going if most is None else going & (step < most)

    def once(state: Any) -> Any:
        step, _, values = state
        going, *made = body(step, jnp.array(True), *values)
        fixed = [as_jax(new).astype(old.dtype) for new, old in zip(made, values, strict=False)]
        return step + 1, jnp.reshape(as_jax(going), ()), fixed

    start = jnp.reshape(jnp.asarray(True if go is None else go), ())
    return tuple(jax.lax.while_loop(more, once, (jnp.int32(0), start, carried))[2])


@operator("Scan", since=9)
def scan(node: Node, *values: Any) -> Any:
    """Axes and directions of its inputs and outputs; the first inputs are the state."""
    body: Body = node.need("body")
    scanned = node.need("num_scan_inputs")
    state, inputs = values[: len(values) - scanned], values[len(values) - scanned :]
    outputs = node.outputs - len(state)
    axes = node.get("scan_input_axes") or [0] * scanned
    back = node.get("scan_input_directions") or [0] * scanned
    turned = []
    for value, axis, flipped in zip(inputs, axes, back, strict=True):
        value = jnp.moveaxis(jnp.asarray(value), axis, 0)
        turned.append(jnp.flip(value, 0) if flipped else value)

    def step(carry: Any, slices: Any) -> Any:
        made = [as_jax(value) for value in body(*carry, *slices)]
        return tuple(made[: len(carry)]), tuple(made[len(carry) :])

    final, made = jax.lax.scan(step, tuple(as_jax(value) for value in state), tuple(turned))
    out_axes = node.get("scan_output_axes") or [0] * outputs
    out_back = node.get("scan_output_directions") or [0] * outputs
    ordered = [
        jnp.moveaxis(jnp.flip(value, 0) if flipped else value, 0, axis)
        for value, axis, flipped in zip(made, out_axes, out_back, strict=True)
    ]
    return (*final, *ordered)


# ------------------------------------------------- sequences: lists while tracing
@operator("SequenceEmpty")
def sequence_empty(node: Node) -> Any:
    return []


@operator("SequenceConstruct")
def sequence_construct(node: Node, *values: Any) -> Any:
    return [list(values)]


def _position(at: Any, count: int) -> int:
    return count if at is None else int(at.reshape(())) % max(count, 1)


@operator("SequenceInsert", static=(2,))
def sequence_insert(node: Node, values: list[Any], value: Any, at: Any = None) -> Any:
    place = len(values) if at is None else int(at.reshape(()))
    place = place + len(values) if place < 0 else place
    return [[*values[:place], value, *values[place:]]]


@operator("SequenceErase", static=(1,))
def sequence_erase(node: Node, values: list[Any], at: Any = None) -> Any:
    place = len(values) - 1 if at is None else _position(at, len(values))
    return [[*values[:place], *values[place + 1 :]]]


@operator("SequenceAt", static=(1,))
def sequence_at(node: Node, values: list[Any], at: Any) -> Any:
    if not values:
        raise node.broken("takes an element of an empty sequence")
    return values[_position(at, len(values))]


@operator("SequenceLength")
def sequence_length(node: Node, values: list[Any]) -> Any:
    return np.array(len(values), np.int64)


@operator("ConcatFromSequence")
def concat_from_sequence(node: Node, values: list[Any]) -> Any:
    lib = xp(*values)
    if node.get("new_axis", 0):
        return lib.stack(values, node.need("axis"))
    return lib.concatenate(values, axis_of(node, node.need("axis"), values[0].ndim))


@operator("SplitToSequence", static=(1,))
def split_to_sequence(node: Node, x: Any, sizes: Any = None) -> Any:
    axis = axis_of(node, node.get("axis", 0), x.ndim)
    whole, lib = x.shape[axis], xp(x)
    if sizes is None:
        parts = lib.split(x, whole, axis)
        return [parts if node.get("keepdims", 1) else [lib.squeeze(p, axis) for p in parts]]
    if sizes.ndim == 0:
        each = max(int(sizes), 1)
        return [list(lib.split(x, list(range(each, whole, each)), axis))]
    return [list(lib.split(x, np.cumsum(ints(sizes))[:-1].tolist(), axis))]
