"""Pass: each product that the rules name is float or quantized, as one traced vector says.

Needs: a float Program. Does: gives each matched parameter a place in a float32 vector, the
last input; where it holds 0 the parameter's products are the function's own, where it holds 1
they are, bit for bit, those of `quantize_linears` at λ = 1. Leaves: the same parameters, float;
one program for every choice, so that trying each layer by itself compiles once.

In between, a smooth program is linear in the choice: its gradient at 0 is what each
parameter's error does to the result, for all of them in one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, bind, interpret
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.modes import FloatMode
from bitnet_jax.passes.plan import Plan, make_plan
from bitnet_jax.passes.quantize_linears import QatMode, views_of
from bitnet_jax.quant.rules import Rule

NAME = "quantize_chosen"


def chosen_names(plan: Plan) -> tuple[str, ...]:
    """The parameters that have a place in the vector, in its order: that of the program."""
    return tuple(dict.fromkeys(use.name for use in plan.uses if plan.rule(use.name) is not None))


@dataclass(frozen=True)
class ChosenMode(QatMode):
    """Float or quantized at each use, by the parameter's place in `chosen`."""

    chosen: Any = None
    places: dict[str, int] = field(default_factory=dict)
    smooth: bool = False

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The floats: every parameter keeps a float form here."""
        return FloatMode.plain(self, context, eqn, view)

    def carried(self) -> list[Any]:
        """The choice."""
        return [self.chosen]

    def with_carried(self, arrays: Sequence[Any]) -> ChosenMode:
        """The same mode over another choice."""
        return replace(self, chosen=arrays[0])

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """The function's own dot, or the quantized one."""

        def floats() -> Any:
            array = self.plain(context, eqn, view)
            return bind(eqn, [other, array] if side else [array, other])[0]

        return self._either(
            view, floats, lambda: QatMode.product(self, context, eqn, view, side, other)
        )

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """The function's own ragged dot, or the quantized one."""
        return self._either(
            view,
            lambda: bind(eqn, [x, self.plain(context, eqn, view), sizes])[0],
            lambda: QatMode.ragged_product(self, context, eqn, view, x, sizes),
        )

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """The function's own lookup, or the quantized one where a rule takes it."""

        def floats() -> Any:
            return bind(eqn, [self.plain(context, eqn, view), *indices])[0]

        if view.name not in self.plan.lookups:
            return floats()
        return self._either(view, floats, lambda: QatMode.gather(self, context, eqn, view, indices))

    def _either(
        self, view: ParamView, floats: Callable[[], Any], quantized: Callable[[], Any]
    ) -> Any:
        share = self.chosen[self.places[view.name]]
        if not self.smooth:
            return lax.cond(share > 0, quantized, floats)
        plain = floats()
        change = (quantized() - plain).astype(jnp.float32)
        return plain + (share * change).astype(plain.dtype)


def quantize_chosen(program: Program, rules: Sequence[Rule], *, smooth: bool = False) -> Program:
    """As `program`, with the choice [parameters] (`chosen_names`) as its last input.

    Args:
      smooth: linear between 0 and 1, differentiable in the choice; both products are computed.
        Else one of them, and above 0 is 1.

    Raises:
      UsageError: as `plan.make_plan`.
    """
    plan = make_plan(program, rules)
    names = chosen_names(plan)
    places = {name: place for place, name in enumerate(names)}
    count = len(program.param_names)

    def run(args: Sequence[Any]) -> list[Any]:
        values = views_of(program, plan, args[:count])
        mode = ChosenMode(plan, chosen=args[-1], places=places, smooth=smooth)
        return interpret(mode, FOLLOW, program.jaxpr, [*values, *args[count:-1]])

    avals = [jax_compat.struct(aval) for aval in program.jaxpr.in_avals]
    avals.append(jax.ShapeDtypeStruct((len(names),), jnp.float32))
    inputs_tree = jax.tree_util.tree_structure(
        (*program.inputs_tree.unflatten([0] * program.inputs_tree.num_leaves), 0)
    )
    return program.derived(NAME, jax.make_jaxpr(run)(avals), inputs_tree=inputs_tree)
