"""Pass: what goes through each product that the rules name, reduced where it stands.

Needs: a float Program. Does: computes each matched product as the function has it, and beside it
as it will be quantized; hands inputs and both outputs to `observe`, and returns what that makes
of them. Leaves: the function's result unchanged, beside ``{name: [what was seen, …]}``. Unlike
`tap` no activation outlives its product: what is returned is as small as `observe` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, bind, interpret
from bitnet_jax.ir.program import Program
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import dot_geometry
from bitnet_jax.passes.modes import FloatMode
from bitnet_jax.passes.plan import make_plan
from bitnet_jax.passes.quantize_linears import QatMode, views_of
from bitnet_jax.passes.tap import Seen
from bitnet_jax.quant.rules import Rule

NAME = "observe_products"

# observe(inputs [*stack, tokens, in], float output, quantized output or None) -> pytree
Observe = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class ObserveMode(QatMode):
    """Floats go on; both forms of a product are seen."""

    observe: Observe = lambda x, plain, quantized: {}
    names: Collection[str] | None = None
    quantized: bool = True
    bodies: list[Seen] = field(default_factory=lambda: [{}])

    def plain(self, context: Context, eqn: Any, view: ParamView) -> Any:
        """The floats."""
        return FloatMode.plain(self, context, eqn, view)

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """The function's own dot, seen."""
        array = self.plain(context, eqn, view)
        out = bind(eqn, [other, array] if side else [array, other])[0]
        if self.names is None or view.name in self.names:
            dims = eqn.params["dimension_numbers"]
            geometry = dot_geometry(view, side, dims, self.plan.roles(view).stack)
            assert geometry is not None  # the plan has checked it
            codes = QatMode.product(self, context, eqn, view, side, other)
            seen = self.observe(
                geometry.activation_matrix(other), out, codes if self.quantized else None
            )
            self.bodies[-1].setdefault(view.name, []).append(seen)
        return out

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """The function's own ragged dot, seen."""
        out = bind(eqn, [x, self.plain(context, eqn, view), sizes])[0]
        if self.names is None or view.name in self.names:
            codes = QatMode.ragged_product(self, context, eqn, view, x, sizes)
            seen = self.observe(x, out, codes if self.quantized else None)
            self.bodies[-1].setdefault(view.name, []).append(seen)
        return out

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """The function's own lookup: there is nothing that is multiplied."""
        return bind(eqn, [self.plain(context, eqn, view), *indices])[0]

    def begin(self) -> None:
        """A body's own dict."""
        self.bodies.append({})

    def end(self) -> Any:
        """What the body saw."""
        return self.bodies.pop()

    def add_seen(self, seen: Seen) -> None:
        """Adds what a construct returned."""
        for name, values in seen.items():
            self.bodies[-1].setdefault(name, []).extend(values)


def observe_products(
    program: Program,
    rules: Sequence[Rule],
    observe: Observe,
    *,
    names: Collection[str] | None = None,
    quantized: bool = True,
) -> Program:
    """As `program`, returning ``(result, {name: [observe(…) of each product]})``.

    Args:
      names: of the parameters to look at; all that a rule takes if None.
      quantized: `observe` is given the quantized output too, else None.

    Raises:
      UsageError: as `plan.make_plan`.
    """
    plan = make_plan(program, rules)
    count = len(program.param_names)
    trees: list[Any] = []

    def run(args: Sequence[Any]) -> list[Any]:
        values = views_of(program, plan, args[:count])
        mode = ObserveMode(plan, observe=observe, names=names, quantized=quantized)
        out = interpret(mode, FOLLOW, program.jaxpr, [*values, *args[count:]])
        (seen,) = mode.bodies
        flat, tree = jax.tree_util.tree_flatten((program.out_tree.unflatten(out), seen))
        trees.append(tree)
        return flat

    avals = [jax_compat.struct(aval) for aval in program.jaxpr.in_avals]
    jaxpr = jax.make_jaxpr(run)(avals)
    return program.derived(NAME, jaxpr, out_tree=trees[-1])
