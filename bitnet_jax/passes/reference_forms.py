"""Pass: every op in its reference form, which is made of what any XLA has.

Needs: a flat Program that will only be run (`inline_calls`). Does: names the reference where an op
would be chosen as it is lowered (a LayerNorm's sum). Leaves: the same ops; no kernel of this
machine's, and none that needs to know how many tokens there are.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.graph import Graph, Replacement, replaced
from bitnet_jax.ir.interpreter import bind
from bitnet_jax.ir.program import Program
from bitnet_jax.ops.select import AUTO

NAME = "reference_forms"


def reference_forms(program: Program) -> Program:
    """As `program`, nothing left to be chosen."""
    graph = Graph(program.jaxpr.jaxpr)
    replacements = {
        index: Replacement(tuple(eqn.invars), tuple(eqn.outvars), _reference(eqn))
        for index, eqn in enumerate(graph.jaxpr.eqns)
        if eqn.params.get("implementation") == AUTO
    }
    return program.derived(NAME, replaced(program.jaxpr, replacements))


def _reference(eqn: Any) -> Any:
    return lambda *values: bind(eqn, values, implementation="reference")
