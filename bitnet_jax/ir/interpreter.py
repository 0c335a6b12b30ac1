"""Interpreting a jaxpr with a table of rules: the engine under every pass.

Values are plain JAX values, `ParamView`s, or `Tangent`s (inside a user's derivative
rule). An equation that no view reaches is bound as it stands; one that a view
reaches goes to the row of the table for its primitive, or to the mode's `other`. Run
it under `jax.make_jaxpr` and the result is a new program; run it on arrays and it
computes; run it `abstract` and it only follows the views, binding nothing.

Knows nothing of what a mode does at a use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.extend.core as jec

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.joined import Joined, apart, through
from bitnet_jax.ir.views import ParamView


class Mode(Protocol):
    """What happens where a followed parameter is used."""

    def dot(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """A `dot_general` whose operand number `side` is `view`."""

    def ragged(self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any) -> Any:
        """A `ragged_dot_general` whose stacked operand is `view`."""

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """A lookup of rows of `view`; `indices` are the equation's other operands."""

    def convolution(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """A convolution with `view`: returns the float array."""

    def keep(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """A use that is certainly no product (a bias): returns the float array."""

    def latent(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The float weight, for a derivative rule that the user wrote for floats."""

    def other(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """Any other use: returns the float array to go on with, or raises."""

    def quantizes(self, view: ParamView) -> bool:
        """True if products with this parameter are quantized."""

    def constant(self, value: Any) -> Any:
        """A value that the function closes over: itself, or a view of it."""

    def settle(self, view: ParamView) -> ParamView:
        """`view` with what needs the whole parameter computed, before part of it is hidden."""

    def carried(self) -> list[Any]:
        """Arrays that the mode itself needs inside a rule that is traced later."""

    def with_carried(self, arrays: Sequence[Any]) -> Mode:
        """The same mode over other arrays (inverse of `carried`)."""

    def begin(self) -> None:
        """A body begins: what is seen from here on is kept apart."""

    def end(self) -> Any:
        """What was seen in the body, as a pytree that the construct returns."""

    def add_seen(self, seen: Any) -> None:
        """What a construct's body had seen, as the construct returned it."""


@dataclass(frozen=True)
class Tangent:
    """A value that depends on a tangent, in a user's own derivative rule."""

    array: Any


@dataclass(frozen=True)
class Construct:
    """A row for a primitive with sub-jaxprs.

    Attributes:
      bodies: the sub-jaxprs and what flows into each: all that following views needs.
      rebuild: the construct again, around transformed bodies.
      passed: results that are operands handed through unchanged, by their number.
    """

    bodies: Callable[[Context, Any, Sequence[Any]], list[tuple[jec.ClosedJaxpr, Sequence[Any]]]]
    rebuild: Rule
    passed: Callable[[Any, Sequence[Any]], dict[int, Any]] = lambda eqn, values: {}


@dataclass(frozen=True)
class Context:
    """What a rule of the table is given: the mode, and how to go deeper.

    Attributes:
      enclosing: the equations whose sub-jaxprs we are in, outermost first.
      abstract: only follow views; plain values are abstract values.
      watched: primitives that go to the table though no view reaches them.
    """

    mode: Mode
    table: dict[str, Rule | Construct]
    enclosing: tuple[Any, ...] = ()
    abstract: bool = False
    watched: frozenset[str] = frozenset()

    def inside(self, eqn: Any) -> Context:
        """The context for the sub-jaxpr of `eqn`."""
        return replace(self, enclosing=(*self.enclosing, eqn))

    def with_mode(self, mode: Mode) -> Context:
        """The same context, another mode."""
        return replace(self, mode=mode)

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

    def through(
        self, eqn: Any, closed: jec.ClosedJaxpr, args: Sequence[Any]
    ) -> tuple[list[Any], Any]:
        """The results of a body of `eqn`, and what the mode saw in it, to be returned too."""
        self.mode.begin()
        out = self.inside(eqn).run(closed.jaxpr, closed.consts, args)
        return out, self.mode.end()

    def shut(self, eqn: Any, closed: jec.ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """The results of a body that can return nothing more than them."""
        out, seen = self.through(eqn, closed, args)
        if jax.tree_util.tree_leaves(seen):
            raise UsageError(
                "tap.inside",
                f"what is tapped lies inside `{eqn.primitive.name}`{self.at(eqn)}, which returns "
                "only its own results",
                "return it from there, or tap what goes in or comes out",
            )
        return out

    def bind(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        """As `bind`; abstract values of the results in an abstract run."""
        if self.abstract:
            return [var.aval for var in eqn.outvars]
        return bind(eqn, values)

    def plain(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        """`values` with every view made an array, by the mode's leave."""
        whole = [apart(self, value) for value in values]
        return [self.mode.other(self, eqn, v) if isinstance(v, ParamView) else v for v in whole]


Rule = Callable[[Context, Any, Sequence[Any]], list[Any]]


def bind(eqn: Any, values: Sequence[Any], **changes: Any) -> list[Any]:
    """Binds an equation's primitive on `values`, parameters changed; always returns a list."""
    subfuns, params = jax_compat.bind_params(eqn)
    params = {**params, **changes}
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*subfuns, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def interpret(
    mode: Mode,
    table: dict[str, Rule | Construct],
    jaxpr: jec.ClosedJaxpr,
    args: Sequence[Any],
    *,
    abstract: bool = False,
    watched: frozenset[str] = frozenset(),
) -> list[Any]:
    """Interprets `jaxpr` on `args` (arrays and views); results are plain arrays.

    A view that reaches an output is a use like any other: the mode is asked.
    """
    context = Context(mode, table, abstract=abstract, watched=watched)
    out = _run(context, jaxpr.jaxpr, jaxpr.consts, args)
    return context.plain(None, out)


def _run(
    context: Context, jaxpr: jec.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
) -> list[Any]:
    env: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jec.Literal) else env[atom]

    env.update(zip(jaxpr.constvars, map(context.mode.constant, consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        reached = any(isinstance(value, ParamView | Joined | Tangent) for value in values)
        closes_over = context.abstract and not reached and jax_compat.holds_matrices(eqn)
        if reached or closes_over or (context.watched and holds(eqn, context.watched)):
            with _place(context, eqn):
                out = _follow(context, eqn, values)
        elif context.abstract:
            out = [var.aval for var in eqn.outvars]
        else:
            with jax_compat.source_of(eqn):
                out = bind(eqn, values)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def holds(eqn: Any, names: frozenset[str]) -> bool:
    """True if `eqn`, or an equation in a body of it, is of a primitive in `names`."""
    if eqn.primitive.name in names:
        return True
    return any(holds(inner, names) for body in jax_compat.bodies(eqn) for inner in body.eqns)


@contextmanager
def _place(context: Context, eqn: Any) -> Iterator[None]:
    """Where the user wrote `eqn`, and the settings it was traced under."""
    if context.abstract:
        yield
        return
    with jax_compat.source_of(eqn), eqn.ctx.manager:
        yield


def _follow(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    row = context.table.get(eqn.primitive.name, _unknown)
    if any(isinstance(value, Joined) for value in values):
        if isinstance(row, Construct) or any(isinstance(value, Tangent) for value in values):
            values = [apart(context, value) for value in values]
        else:
            return through(context, eqn, values, row)
    if any(isinstance(value, Tangent) for value in values):
        return _linear(context, eqn, values, row)
    if not isinstance(row, Construct):
        return row(context, eqn, values)
    if not context.abstract:
        return row.rebuild(context, eqn, values)
    passed = row.passed(eqn, values)
    for closed, inner in row.bodies(context, eqn, values):
        out = context.inside(eqn).run(closed.jaxpr, closed.consts, inner)
        context.plain(eqn, [v for index, v in enumerate(out) if index not in passed])
    return [passed.get(index, var.aval) for index, var in enumerate(eqn.outvars)]


def _unknown(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return context.bind(eqn, context.plain(eqn, values))


def _linear(context: Context, eqn: Any, values: Sequence[Any], row: Any) -> list[Any]:
    """An equation on tangents: the user's own derivative, left as it was written."""
    if eqn.primitive.name == "jit" and not isinstance(row, Construct):
        return list(row(context, eqn, values))  # inlined: primal parts of it are quantized
    plain = [
        context.mode.latent(context, eqn, v) if isinstance(v, ParamView) else v for v in values
    ]
    plain = [v.array if isinstance(v, Tangent) else v for v in plain]
    return [Tangent(out) for out in context.bind(eqn, plain)]
