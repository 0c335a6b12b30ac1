"""Pass: products with float parameters as `dense_matmul`, from what is held.

Needs: a flat Program (`inline_calls`). Does: makes each float32 `dot_general` of tokens with
a whole [out, in] parameter (the head; also `x @ table.T`) a `dense_matmul`, and moves the
widening of a parameter that is held as bfloat16 behind the lookups and into the products.
Leaves: no wide copy of such a parameter, where only these read it; sums in one order,
whatever else is in the batch.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from bitnet_jax.ir.graph import Graph, Replacement, replaced
from bitnet_jax.ir.interpreter import bind
from bitnet_jax.ir.program import Program
from bitnet_jax.ops.dense_matmul import dense_matmul

NAME = "dense_products"


def dense_products(program: Program) -> Program:
    """As `program`, with its float products by `dense_matmul`."""
    graph = Graph(program.jaxpr.jaxpr)
    parameters = set(graph.jaxpr.invars[: len(program.param_names)])
    rules = {"dot_general": _product, "gather": _lookup}
    replacements = {}
    for index, eqn in enumerate(graph.jaxpr.eqns):
        rule = rules.get(eqn.primitive.name)
        made = rule(graph, eqn, parameters) if rule else None
        if made is not None:
            replacements[index] = made
    return program.derived(NAME, replaced(program.jaxpr, replacements))


def _held(graph: Graph, var: Any) -> Any:
    """What a widened value is held as, or the value itself."""
    cast = graph.maker(var, "convert_element_type")
    if cast is None or str(cast.invars[0].aval.dtype) != "bfloat16":
        return var
    return cast.invars[0]


def _product(graph: Graph, eqn: Any, parameters: set[Any]) -> Replacement | None:
    x, w = eqn.invars
    last = x.aval.ndim - 1
    dtypes = {str(var.aval.dtype) for var in (x, w, eqn.outvars[0])}
    turned = graph.maker(w, "transpose")
    if turned is not None and w.aval.ndim == 2:  # `x @ table.T`
        w, axis = turned.invars[0], 0
    else:
        axis = 1
    held = _held(graph, w)
    if eqn.params["dimension_numbers"] != (((last,), (axis,)), ((), ())) or dtypes != {"float32"}:
        return None
    if held not in parameters or w.aval.ndim != 2 or last == 0:
        return None
    return Replacement((x, held), tuple(eqn.outvars), lambda x, w: [dense_matmul(x, w)])


def _lookup(graph: Graph, eqn: Any, parameters: set[Any]) -> Replacement | None:
    table, indices = eqn.invars
    held = _held(graph, table)
    if held is table or held not in parameters or eqn.params["fill_value"] is not None:
        return None

    def run(table: Any, indices: Any) -> list[Any]:
        return [rows.astype(jnp.float32) for rows in bind(eqn, [table, indices])]

    return Replacement((held, indices), tuple(eqn.outvars), run)
