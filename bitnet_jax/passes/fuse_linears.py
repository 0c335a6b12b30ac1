"""Pass: ternary products of one input, their gate and norm, and a sum after, as one op.

Needs: a flat Program with packed products (`pack_weights`, `inline_calls`). Does: puts the
products that read the same value into one `fused_linears` (q, k and v; gate and up), with
the `rms_norm` and the squared-ReLU gate that only they read, and the residual sum that alone
reads a single product. Leaves: `fused_linears` where that was possible, everything else as
it was. On its own the norm of a row is summed in another order than XLA's: results agree to
float32's rounding, not in every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from bitnet_jax.ir.graph import Graph, Replacement, is_literal, replaced
from bitnet_jax.ir.program import Program
from bitnet_jax.ops.fused_linears import fused_linears
from bitnet_jax.ops.fused_linears.native import GATES, MOST_WEIGHTS
from bitnet_jax.ops.select import AUTO

NAME = "fuse_linears"
# What products of one op have in common.
SHARED = ("layout", "scale_kind", "group_size")


def fuse_linears(program: Program) -> Program:
    """As `program`, with its ternary products fused."""
    graph = Graph(program.jaxpr.jaxpr)
    replacements = dict(_fused(graph, group) for group in _groups(graph))
    return program.derived(NAME, replaced(program.jaxpr, replacements))


def _groups(graph: Graph) -> list[list[Any]]:
    """Products by what they read and how they scale; at most `MOST_WEIGHTS` together."""
    by_input: dict[Any, list[Any]] = {}
    for eqn in graph.jaxpr.eqns:
        if _fits(eqn):
            kinds = tuple(eqn.params[name] for name in SHARED)
            shape = _aval(eqn.invars[0]).shape
            key = (graph.before_reshapes(eqn.invars[0]), shape, kinds)
            by_input.setdefault(key, []).append(eqn)
    return [
        group[at : at + MOST_WEIGHTS]
        for group in by_input.values()
        for at in range(0, len(group), MOST_WEIGHTS)
    ]


def _aval(var: Any) -> Any:
    return var.aval


def _fits(eqn: Any) -> bool:
    if eqn.primitive.name != "ternary_matmul":
        return False
    x: Any = eqn.invars[0].aval
    return (
        eqn.params["implementation"] == AUTO
        and eqn.params["out_dtype"] == str(x.dtype) == "float32"
        and x.shape[0] == 1
    )


class _Source(NamedTuple):
    """What a group's products read: `x` (the gate where there is one), and what is done to it."""

    x: Any
    up: Any = None
    gate: str = ""
    norm: Any = None
    eps: float = 0.0


def _source(graph: Graph, group: Sequence[Any]) -> _Source:
    """The norm and the gate before the products, where only they read them."""
    value = graph.before_reshapes(group[0].invars[0])
    found = _Source(value)
    width = group[0].invars[0].aval.shape[-1]

    def only(var: Any, readers: Sequence[Any]) -> bool:
        wanted = {id(eqn) for eqn in readers}
        return all(eqn is not None and id(eqn) in wanted for eqn in graph.readers(var))

    def plain(*variables: Any) -> bool:
        avals = [var.aval for var in variables]
        return all(str(a.dtype) == "float32" and a.shape[-1:] == (width,) for a in avals)

    norm = graph.maker(value, "rms_norm")
    readers = group
    if norm is not None and _aval(norm.invars[1]).ndim != 1:
        norm = None
    if norm is not None and plain(*norm.invars, value) and only(value, group):
        found = _Source(norm.invars[0], norm=norm.invars[1], eps=norm.params["eps"])
        readers, value = [norm], graph.before_reshapes(norm.invars[0])
    gate = graph.maker(value, "gated_activation")
    if gate is not None and gate.params["kind"] in GATES and plain(*gate.invars):
        same = {_aval(var).shape for var in (*gate.invars, value)}
        if len(same) == 1 and only(value, readers):
            return found._replace(x=gate.invars[0], up=gate.invars[1], gate=gate.params["kind"])
    return found


def _sum_after(graph: Graph, group: Sequence[Any]) -> Any:
    """The `add` that alone reads the only product, or None."""
    if len(group) > 1:
        return None
    out = group[0].outvars[0]
    readers = graph.readers(out)
    if len(readers) != 1 or readers[0] is None or readers[0].primitive.name != "add":
        return None
    add = readers[0]
    left, right = add.invars
    shapes = {var.aval.shape for var in (left, right, add.outvars[0])}
    if is_literal(left) or is_literal(right) or len(shapes) > 1 or left is right:
        return None
    return add if math.prod(left.aval.shape) == math.prod(out.aval.shape) else None


def _fused(graph: Graph, group: Sequence[Any]) -> tuple[int, Replacement]:
    """The place and the op of one group."""
    add = _sum_after(graph, group)
    other = None
    if add is not None:
        mine = [graph.before_reshapes(var) is group[0].outvars[0] for var in add.invars]
        other = add.invars[mine.index(False)] if mine.count(True) == 1 else None
        add = add if other is not None else None
    index = graph.index(group[0] if add is None else add)
    weights = [graph.before_reshapes(var) for eqn in group for var in eqn.invars[1:]]
    if not graph.known_before(index, weights):
        weights, group = [graph.before_reshapes(v) for v in group[0].invars[1:]], group[:1]
    source = _source(graph, group)
    optional = {"up": source.up, "norm": source.norm, "add": other}
    names = [name for name, var in optional.items() if var is not None]
    shapes = [var.aval.shape for eqn in group for var in eqn.invars[1:]]
    x_shape = group[0].invars[0].aval.shape
    params = group[0].params
    outputs = [eqn.outvars[0] for eqn in group] if add is None else [add.outvars[0]]

    def run(x: Any, *rest: Any) -> list[Any]:
        given = dict(zip(names, rest[: len(names)], strict=True))
        packed = zip(rest[len(names) :], shapes, strict=True)
        flat = [value.reshape(shape) for value, shape in packed]
        if "up" in given:
            given["up"] = given["up"].reshape(x_shape)
        if "add" in given:
            given["add"] = given["add"].reshape(group[0].outvars[0].aval.shape)
        results = fused_linears(
            x.reshape(x_shape),
            list(zip(flat[::2], flat[1::2], strict=True)),
            out_features=[eqn.params["out_features"] for eqn in group],
            gate=source.gate,
            eps=source.eps,
            **{name: params[name] for name in SHARED},
            **given,
        )
        return [y.reshape(var.aval.shape) for y, var in zip(results, outputs, strict=True)]

    inputs = (source.x, *(optional[name] for name in names), *weights)
    return index, Replacement(inputs, tuple(outputs), run)
