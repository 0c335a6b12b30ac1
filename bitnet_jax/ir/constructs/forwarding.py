"""Which results of an equation are operands of it, handed through unchanged.

A weight that a loop carries along, or that a layer returns beside its output (as Flax's
`nnx.scan` returns its modules), is the same weight outside: it stays a view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.extend.core as jec

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.views import ParamView


def passed_on(eqn: Any, values: Sequence[Any]) -> dict[int, ParamView]:
    """Results of `eqn` that are views among its operands `values`, by number."""
    found = {}
    for result in range(len(eqn.outvars)):
        source = _operand_of(eqn, result)
        if source is not None and isinstance(values[source], ParamView):
            found[result] = values[source]
    return found


def others(out: Sequence[Any], passed: Mapping[int, Any]) -> list[Any]:
    """The results that are not handed on."""
    return [value for index, value in enumerate(out) if index not in passed]


def merged(out: Sequence[Any], passed: Mapping[int, Any]) -> list[Any]:
    """All results, of those computed and those handed on."""
    rest = iter(out)
    count = len(out) + len(passed)
    return [passed[index] if index in passed else next(rest) for index in range(count)]


def _operand_of(eqn: Any, result: int) -> int | None:
    """The operand of `eqn` that its result number `result` is, or None."""
    rule = _RULES.get(eqn.primitive.name)
    return None if rule is None else rule(eqn, result)


def _input_of(jaxpr: jec.Jaxpr, result: int) -> int | None:
    """The input of `jaxpr` that its result number `result` is, also through what it calls."""
    atom = jaxpr.outvars[result]
    # From the last equation back: what makes `atom` stands before what we came from.
    for eqn in reversed(jaxpr.eqns):
        for place, var in enumerate(eqn.outvars):
            if var is atom:
                source = _operand_of(eqn, place)
                if source is None:
                    return None
                atom = eqn.invars[source]
                break
    return next((place for place, var in enumerate(jaxpr.invars) if var is atom), None)


def _call(eqn: Any, result: int) -> int | None:
    (body,) = jax_compat.bodies(eqn)
    return _input_of(body, result)


def _scan(eqn: Any, result: int) -> int | None:
    """A carry that stays as it is, or a stack that comes out as it went in."""
    consts, carry = jax_compat.scan_counts(eqn)
    source = _input_of(eqn.params["jaxpr"].jaxpr, result)
    if source is None:
        return None
    same = source == consts + result if result < carry else source >= consts + carry
    return source if same else None


def _while(eqn: Any, result: int) -> int | None:
    params = eqn.params
    source = _input_of(params["body_jaxpr"].jaxpr, result)
    same = source == params["body_nconsts"] + result
    return params["cond_nconsts"] + source if source is not None and same else None


def _cond(eqn: Any, result: int) -> int | None:
    """What every branch hands on from the same operand."""
    first, *rest = (_input_of(branch.jaxpr, result) for branch in eqn.params["branches"])
    return None if first is None or any(other != first for other in rest) else first + 1


_RULES: dict[str, Callable[[Any, int], int | None]] = {
    "jit": _call,
    "closed_call": _call,
    "remat2": _call,
    "checkpoint": _call,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
