"""Pass: the bodies of calls stand in their place.

Needs: a Program that will only be run. Does: inlines `jit` and custom derivatives.
Leaves: one flat jaxpr, in which a pass sees what follows what; no derivatives.
"""

from __future__ import annotations

from bitnet_jax.ir.graph import flattened
from bitnet_jax.ir.program import Program

NAME = "inline_calls"


def inline_calls(program: Program) -> Program:
    """As `program`, flat."""
    return program.derived(NAME, flattened(program.jaxpr))
