"""Pass: what is left of norms and attentions runs as the kernels do it.

Needs: a flat Program that will only be run (`inline_calls`), after the passes that fuse. Does:
lets each `rms_norm` and `attention` be chosen by `select`. Leaves: the same ops; where there is
no kernel, or it does not fit, they are what they were.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.graph import Graph, Replacement, replaced
from bitnet_jax.ir.interpreter import bind
from bitnet_jax.ir.program import Program
from bitnet_jax.ops.select import AUTO

NAME = "kernel_forms"
OPS = ("rms_norm", "attention")


def kernel_forms(program: Program) -> Program:
    """As `program`, its norms and attentions chosen by `select`."""
    graph = Graph(program.jaxpr.jaxpr)
    replacements = {
        index: Replacement(tuple(eqn.invars), tuple(eqn.outvars), _chosen(eqn))
        for index, eqn in enumerate(graph.jaxpr.eqns)
        if eqn.primitive.name in OPS
    }
    return program.derived(NAME, replaced(program.jaxpr, replacements))


def _chosen(eqn: Any) -> Any:
    return lambda *values: bind(eqn, values, implementation=AUTO)
