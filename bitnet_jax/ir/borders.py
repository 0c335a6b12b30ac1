"""Where a program can be cut in two: the one value that all of what follows is computed from.

In a decoder these are the states of the residual stream, whatever a family's layers are made of.
Two programs of one model made by different passes have the same, by the parameter that comes next.
Knows no parameter's name.
"""

from __future__ import annotations

from math import prod
from typing import Any

import jax.extend.core as jec
import numpy as np

from bitnet_jax.ir.program import Program


def borders(program: Program, tokens: int) -> dict[str, Any]:
    """The variables at which the program falls in two, by the parameter that is read next.

    What is made from the program's inputs alone (a mask), or from its parameters alone, does not
    count: both sides have it. Nor does a result that nothing reads any more (a cache that was
    written and read). Of several such variables in a row (a reshaping) the last counts.

    Args:
      program: flat: its calls inlined.
      tokens: only variables that hold a float32 vector for each of so many are looked for.
    """
    jaxpr = program.jaxpr.jaxpr
    count = len(program.param_names)
    # Of what depends on parameters alone, their names; and what depends on inputs, on both.
    weights = {
        var: [name] for var, name in zip(jaxpr.invars[:count], program.param_names, strict=True)
    }
    given, made = set(jaxpr.invars[count:]), set[Any]()
    last = {var: at for at, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
    live, here, found = set[Any](), None, dict[str, Any]()
    for at, eqn in enumerate(jaxpr.eqns):
        live = {var for var in live if last.get(var, -1) >= at}
        if len(live) == 1:
            (one,) = live
            here = one if _is_state(one, tokens) else None
        operands = list(_variables(eqn.invars))
        names = [name for var in operands for name in weights.get(var, ())]
        if made.isdisjoint(operands) and given.isdisjoint(operands):
            weights.update((var, names) for var in eqn.outvars if names)
            continue
        if names and here is not None:
            found.setdefault(names[0], here)
            here = None
        if names or not made.isdisjoint(operands):
            made.update(eqn.outvars)
            live.update(eqn.outvars)
        else:
            given.update(eqn.outvars)
    return found


def _is_state(var: Any, tokens: int) -> bool:
    return var.aval.dtype == np.float32 and prod(var.aval.shape[:-1]) == tokens


def _variables(atoms: Any) -> Any:
    return (atom for atom in atoms if not isinstance(atom, jec.Literal))
