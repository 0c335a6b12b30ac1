"""Checking a `Program`'s invariants: what must hold between any two passes."""

from __future__ import annotations

import jax.extend.core as jec

from bitnet_jax.core.errors import InternalError
from bitnet_jax.ir.program import Program


def verify(program: Program) -> Program:
    """Returns `program`, or raises `InternalError` naming the last pass.

    Holds: as many inputs as the trees say, unique names, every variable defined
    once and before use, types of every equation (JAX's own check).
    """
    after = program.passes[-1] if program.passes else "trace"
    jaxpr = program.jaxpr.jaxpr
    wanted = program.params_tree.num_leaves + program.inputs_tree.num_leaves
    if len(jaxpr.invars) != wanted or len(program.param_names) != program.params_tree.num_leaves:
        raise _broken(after, f"{len(jaxpr.invars)} inputs, the trees say {wanted}")
    if len(set(program.param_names)) != len(program.param_names):
        raise _broken(after, "two parameters have one name")
    if len(jaxpr.outvars) != program.out_tree.num_leaves:
        raise _broken(after, f"{len(jaxpr.outvars)} results, not {program.out_tree.num_leaves}")
    try:
        jec.check_jaxpr(jaxpr)
    except (TypeError, jec.JaxprTypeError) as error:
        raise _broken(after, str(error)) from error
    return program


def _broken(after: str, why: str) -> InternalError:
    return InternalError("program.invalid", f"after pass `{after}`: {why}")
