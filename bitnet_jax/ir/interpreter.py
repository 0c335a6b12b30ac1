"""Interpreting a jaxpr with a table of rules: the engine under every pass.

Values are plain JAX values or `ParamView`s. An equation that no view reaches is
bound as it stands; one that a view reaches goes to the row of the table for its
primitive, or to the mode's `other`. Run it under `jax.make_jaxpr` and the result
is a new program; run it on arrays and it computes.

Knows nothing of what a mode does at a use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax.extend.core as jec

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.views import ParamView


class Mode(Protocol):
    """What happens where a followed parameter is used."""

    def dot(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """A `dot_general` whose operand number `side` is `view`."""

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Any) -> Any:
        """A `gather` of rows of `view`."""

    def keep(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """A use that is certainly no product (a bias): returns the float array."""

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Any other use: returns the float array to go on with, or raises."""


@dataclass(frozen=True)
class Context:
    """What a rule of the table is given: the mode, and how to go deeper.

    Attributes:
      enclosing: the equations whose sub-jaxprs we are in, outermost first.
    """

    mode: Mode
    table: dict[str, Rule]
    enclosing: tuple[Any, ...] = ()

    def inside(self, eqn: Any) -> Context:
        """The context for the sub-jaxpr of `eqn`."""
        return replace(self, enclosing=(*self.enclosing, eqn))

    def at(self, eqn: Any) -> str:
        """`` at file:line`` of the user's source, or nothing when unknown.

        A function that JAX had traced before (`jnp.linalg.norm`) holds no line of the
        user's: then it is the line of the call.
        """
        for candidate in (eqn, *reversed(self.enclosing)):
            line = jax_compat.source_line(candidate) if candidate is not None else None
            if line:
                return f" at {line}"
        return ""

    def run(self, jaxpr: jec.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Interprets a (sub-)jaxpr; the results may be views."""
        return _run(self, jaxpr, consts, args)

    def plain(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        """`values` with every view made an array, by the mode's leave."""
        return [self.mode.other(self, eqn, v) if isinstance(v, ParamView) else v for v in values]


Rule = Callable[[Context, Any, Sequence[Any]], list[Any]]


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Binds an equation's primitive on `values`; always returns a list."""
    subfuns, params = jax_compat.bind_params(eqn)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*subfuns, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def interpret(
    mode: Mode,
    table: dict[str, Rule],
    jaxpr: jec.ClosedJaxpr,
    args: Sequence[Any],
) -> list[Any]:
    """Interprets `jaxpr` on `args` (arrays and views); results are plain arrays.

    A view that reaches an output is a use like any other: the mode is asked.
    """
    context = Context(mode, table)
    out = _run(context, jaxpr.jaxpr, jaxpr.consts, args)
    return context.plain(None, out)


def _run(
    context: Context, jaxpr: jec.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
) -> list[Any]:
    env: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jec.Literal) else env[atom]

    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        with jax_compat.source_of(eqn):
            if any(isinstance(value, ParamView) for value in values):
                rule = context.table.get(eqn.primitive.name, _unknown)
                out = rule(context, eqn, values)
            else:
                out = bind(eqn, values)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _unknown(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return bind(eqn, context.plain(eqn, values))
