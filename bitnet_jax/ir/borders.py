"""Where a program can be cut in two: the one value that all of what follows is computed from.

In a decoder these are the states of the residual stream, whatever a family's layers are made of.
Two programs of one model made by different passes have the same, by the parameter that comes next.
Knows no parameter's name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import jax.extend.core as jec
import numpy as np

from bitnet_jax.ir.program import Program

Value = TypeVar("Value", bound=Hashable)


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
    names = dict(zip(jaxpr.invars[:count], program.param_names, strict=True))
    steps = [(list(_variables(eqn.invars)), eqn.outvars) for eqn in jaxpr.eqns]
    return falls_in_two(steps, names, jaxpr.invars[count:], lambda var: _is_state(var, tokens))


def falls_in_two(
    steps: Sequence[tuple[Sequence[Value], Sequence[Value]]],
    parameters: Mapping[Value, str],
    inputs: Iterable[Value],
    is_state: Callable[[Value], bool],
) -> dict[str, Value]:
    """As `borders`, of any graph: what each of its steps reads and makes, in their order."""
    # Of what depends on parameters alone, their names; and what depends on inputs, on both.
    weights = {value: [name] for value, name in parameters.items()}
    given, made = set(inputs), set[Value]()
    last = {value: at for at, (read, _) in enumerate(steps) for value in read}
    live, here, found = set[Value](), None, dict[str, Value]()
    for at, (read, results) in enumerate(steps):
        live = {value for value in live if last.get(value, -1) >= at}
        if len(live) == 1:
            (one,) = live
            here = one if is_state(one) else None
        names = [name for value in read for name in weights.get(value, ())]
        if made.isdisjoint(read) and given.isdisjoint(read):
            weights.update((value, names) for value in results if names)
            continue
        if names and here is not None:
            found.setdefault(names[0], here)
            here = None
        if names or not made.isdisjoint(read):
            made.update(results)
            live.update(results)
        else:
            given.update(results)
    return found


def _is_state(var: Any, tokens: int) -> bool:
    return var.aval.dtype == np.float32 and prod(var.aval.shape[:-1]) == tokens


def _variables(atoms: Any) -> Any:
    return (atom for atom in atoms if not isinstance(atom, jec.Literal))
