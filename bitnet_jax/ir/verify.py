"""Checking a `Program`'s invariants: what must hold between any two passes."""

from __future__ import annotations

import os
from collections import Counter

import jax.extend.core as jec

from bitnet_jax.core.errors import InternalError
from bitnet_jax.ir.program import Program

# Their bodies can only be checked under the mesh axes that they name: JAX's check does so.
_NAMED_AXES = {"shard_map", "xla_pmap"}


def verify(program: Program, *, dump: str | os.PathLike | None = None) -> Program:
    """Returns `program`, or raises `InternalError` naming the pass that broke it.

    Holds: as many inputs and results as the trees say, one name for each parameter and
    no name twice; in every body, each variable defined once and before its use, and the
    types of each equation (JAX's own check).

    Args:
      dump: the file that shows it, for the message.

    Raises:
      InternalError: code ``program.invalid``.
    """
    found = _first_fault(program)
    if found is None:
        return program
    *earlier, after = ("trace", *program.passes)
    before = f", which was given what `{earlier[-1]}` left" if earlier else ""
    raise InternalError(
        "program.invalid",
        f"pass `{after}`{before}, made a program that does not hold: {found}",
        f"it is in `{dump}`" if dump else "--dump-passes DIR writes what each pass left",
    )


def _first_fault(program: Program) -> str | None:
    """The first invariant that does not hold, in words."""
    jaxpr = program.jaxpr.jaxpr
    parameters = program.params_tree.num_leaves
    inputs, results = len(jaxpr.invars), len(jaxpr.outvars)
    wanted = parameters + program.inputs_tree.num_leaves
    names = program.param_names
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    counts = (
        (inputs == wanted, f"it has {inputs} inputs, and its trees {wanted}"),
        (len(names) == parameters, f"{len(names)} names for {parameters} parameters"),
        (not twice, f"two parameters are named `{', '.join(twice)}`"),
        (
            results == program.out_tree.num_leaves,
            f"it has {results} results, and its tree {program.out_tree.num_leaves}",
        ),
    )
    for holds, message in counts:
        if not holds:
            return message
    # JAX's check stays outside the bodies of scans and branches. One body may stand in
    # many places: it is checked once.
    bodies, seen = [jaxpr], {id(jaxpr)}
    while bodies:
        body = bodies.pop()
        try:
            jec.check_jaxpr(body)
        except (TypeError, jec.JaxprTypeError) as error:
            # The fault, its equation and its source; what follows is the whole jaxpr.
            return " ".join(str(error).partition("while checking jaxpr")[0].split())
        for eqn in body.eqns:
            if eqn.primitive.name in _NAMED_AXES:
                continue
            inner = [sub for sub in jec.jaxprs_in_params(eqn.params) if id(sub) not in seen]
            seen |= {id(sub) for sub in inner}
            bodies += inner
    return None
