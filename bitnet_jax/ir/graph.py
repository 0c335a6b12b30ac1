"""A flat jaxpr as a graph: who makes a value, who reads it; equations replaced by others.

For passes that put several equations into one. Knows nothing of what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.extend.core as jec

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.interpreter import bind

# Calls whose body may stand in their place: parameter that holds it.
CALLS = {"jit": "jaxpr", "custom_vjp_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


@dataclass(frozen=True)
class Replacement:
    """What stands in the place of several equations.

    Attributes:
      inputs: variables (or literals) of the old jaxpr.
      outputs: variables of the old jaxpr that it gives.
      run: values of the inputs to values of the outputs.
    """

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    run: Callable[..., Sequence[Any]]


@dataclass
class Graph:
    """The equations of a jaxpr and what connects them.

    Attributes:
      made_by: variable to the index of its equation; inputs and constants have none.
      read_by: variable to the indices of the equations that read it, and `OUTPUT`.
    """

    jaxpr: jec.Jaxpr
    made_by: dict[Any, int] = field(default_factory=dict)
    read_by: dict[Any, list[int]] = field(default_factory=dict)

    OUTPUT = -1

    def __post_init__(self) -> None:
        for index, eqn in enumerate(self.jaxpr.eqns):
            for var in eqn.invars:
                if not is_literal(var):
                    self.read_by.setdefault(var, []).append(index)
            for var in eqn.outvars:
                self.made_by[var] = index
        for var in self.jaxpr.outvars:
            if not is_literal(var):
                self.read_by.setdefault(var, []).append(self.OUTPUT)

    def maker(self, var: Any, *primitives: str) -> Any:
        """The equation that makes `var`, if it is one of `primitives`; else None."""
        index = None if is_literal(var) else self.made_by.get(var)
        if index is None:
            return None
        eqn = self.jaxpr.eqns[index]
        return eqn if eqn.primitive.name in primitives else None

    def index(self, eqn: Any) -> int:
        """Where `eqn` stands."""
        return self.made_by[eqn.outvars[0]]

    def before_reshapes(self, var: Any) -> Any:
        """What `var` is a reshape of, through any number of them."""
        while (eqn := self.maker(var, "reshape")) is not None:
            var = eqn.invars[0]
        return var

    def readers(self, var: Any) -> list[Any]:
        """The equations that read `var` or a reshape of it; None stands for the result."""
        found: list[Any] = []
        for index in self.read_by.get(var, []):
            eqn = None if index == self.OUTPUT else self.jaxpr.eqns[index]
            if eqn is not None and eqn.primitive.name == "reshape":
                found += self.readers(eqn.outvars[0])
            else:
                found.append(eqn)
        return found

    def known_before(self, index: int, variables: Iterable[Any]) -> bool:
        """Says whether all of `variables` are made before equation `index`."""
        return all(is_literal(var) or self.made_by.get(var, -1) < index for var in variables)


def is_literal(var: Any) -> bool:
    """True for a number in an equation, which no equation makes."""
    return isinstance(var, jec.Literal)


def flattened(closed: jec.ClosedJaxpr) -> jec.ClosedJaxpr:
    """`closed` with the bodies of calls in their place.

    A custom derivative is lost with its call: what comes out is for running only. A `jit`
    with shardings of its own stays.
    """
    return jax.make_jaxpr(lambda *args: _run(closed, args))(*closed.in_avals)


def _run(closed: jec.ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, args, strict=True))
    read = _reader(env)
    for eqn in closed.jaxpr.eqns:
        values = [read(var) for var in eqn.invars]
        body = _body(eqn)
        with jax_compat.source_of(eqn):
            out = bind(eqn, values) if body is None else _run(body, values)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(var) for var in closed.jaxpr.outvars]


def _body(eqn: Any) -> Any:
    key = CALLS.get(eqn.primitive.name)
    if key is None:
        return None
    given = [*eqn.params.get("in_shardings", ()), *eqn.params.get("out_shardings", ())]
    free = all(jax_compat.is_unspecified(sharding) for sharding in given)
    return eqn.params[key] if free else None


def _reader(env: dict[Any, Any]) -> Callable[[Any], Any]:
    return lambda var: var.val if is_literal(var) else env[var]


def replaced(closed: jec.ClosedJaxpr, replacements: dict[int, Replacement]) -> jec.ClosedJaxpr:
    """`closed` with a replacement in the place of each equation that is a key.

    Equations whose results nobody reads any more are left out.
    """
    jaxpr = closed.jaxpr
    steps: list[Any] = []
    given = {var for step in replacements.values() for var in step.outputs}
    live = {var for var in jaxpr.outvars if not is_literal(var)}
    for index in reversed(range(len(jaxpr.eqns))):
        eqn = jaxpr.eqns[index]
        step = replacements.get(index)
        if step is None and eqn.outvars and given.issuperset(eqn.outvars):
            continue
        outputs = step.outputs if step is not None else eqn.outvars
        if not live.intersection(outputs) and not (step is None and eqn.effects):
            continue
        inputs = step.inputs if step is not None else eqn.invars
        live.update(var for var in inputs if not is_literal(var))
        steps.append((step, eqn))

    def run(*args: Any) -> list[Any]:
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        read = _reader(env)
        for step, eqn in reversed(steps):
            with jax_compat.source_of(eqn):
                if step is None:
                    out = bind(eqn, [read(var) for var in eqn.invars])
                    env.update(zip(eqn.outvars, out, strict=True))
                else:
                    out = list(step.run(*(read(var) for var in step.inputs)))
                    env.update(zip(step.outputs, out, strict=True))
        return [read(var) for var in jaxpr.outvars]

    return jax.make_jaxpr(run)(*closed.in_avals)
