"""`transform`: recipes that add parameters or change numerics, as passes over any function.

A recipe is a list of steps, applied in order; each is a small dataclass in `recipes/`.
A step names weights by path, and may add parameters beside them, change their first
values, put a note on them (`quant/notes.py`) or change what they multiply. The
result is an ordinary function of a flat dict of parameters: `ternarize`, `pack` and
`explain` take it as they take any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, bind, interpret
from bitnet_jax.ir.program import Program, named_leaves, trace
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import DotGeometry, dot_geometry
from bitnet_jax.passes.modes import BoundMode
from bitnet_jax.passes.plan import Plan, Planned, make_plan
from bitnet_jax.quant.rules import Rule


class Step(Protocol):
    """One row of a recipe."""

    path: str

    @property
    def rule(self) -> Rule:
        """The weights that the step is for, and the kind of scale that it works with."""

    def check(self, name: str, plan: Plan) -> None:
        """Refuses a weight whose uses the step cannot serve."""

    def added(self, name: str, value: Any, planned: Planned) -> dict[str, Any]:
        """Parameters to add for the weight `name`, by the suffix of their names."""

    def initial(self, value: Any, planned: Planned) -> Any:
        """The weight's first value."""

    def enter(self, view: ParamView, own: Mapping[str, Any], planned: Planned) -> Any:
        """The weight where the function meets it: a view to follow, or a noted array."""

    def activations(self, view: ParamView, geometry: DotGeometry, x: Any) -> Any:
        """What the weight multiplies."""


@dataclass(frozen=True)
class BaseStep:
    """A step that changes nothing: what each overrides is what it does.

    Attributes:
      path: pattern of parameter names, as in a rule.
    """

    path: str

    @property
    def rule(self) -> Rule:
        """As a ternary rule with one scale per matrix."""
        return Rule(self.path)

    def check(self, name: str, plan: Plan) -> None:
        """Serves every product."""

    def added(self, name: str, value: Any, planned: Planned) -> dict[str, Any]:
        """Nothing."""
        return {}

    def initial(self, value: Any, planned: Planned) -> Any:
        """The value as it is."""
        return value

    def enter(self, view: ParamView, own: Mapping[str, Any], planned: Planned) -> Any:
        """The view as it is."""
        return view

    def activations(self, view: ParamView, geometry: DotGeometry, x: Any) -> Any:
        """x as it is."""
        return x


@dataclass(frozen=True)
class StepMode(BoundMode):
    """Products of followed weights take the step's activations; all stays float."""

    step: Step
    plan: Plan

    def quantizes(self, view: ParamView) -> bool:
        """True for the step's own weights."""
        return view.name in self.plan.dots

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """The same dot on the step's activations."""
        stack = self.plan.roles(view).stack
        geometry = dot_geometry(view, side, eqn.params["dimension_numbers"], stack)
        assert geometry is not None  # the plan has checked it
        x = self._activations(view, geometry, other)
        floats = view.array()
        return bind(eqn, [x, floats] if side else [floats, x])[0]

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """The same ragged dot on the step's activations."""
        geometry = dot_geometry(view, 1, (((1,), (1,)), ((), ())), self.plan.roles(view).stack)
        assert geometry is not None  # the plan has checked it
        return bind(eqn, [self._activations(view, geometry, x), view.array(), sizes])[0]

    def _activations(self, view: ParamView, geometry: DotGeometry, x: Any) -> Any:
        """The step's, which lie as `x` does."""

        def changed(leaves: Sequence[Any], x: Any) -> Any:
            return self.step.activations(view.with_leaves(leaves), geometry, x)

        return _as_it_lies(changed, x)(view.leaves(), x)


def _as_it_lies(function: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """`function`, whose result has the sharding in the type of `like`, on an explicit mesh."""
    return jax_compat.in_auto_axes(function, jax_compat.explicit_sharding(jax.typeof(like)))


def transform(
    fn: Callable[..., Any], params: Any, recipe: Sequence[Step], *example_args: Any
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Applies `recipe` to ``fn(params, *args)``.

    Args:
      params: pytree of float arrays.
      recipe: steps (`SubNorm`, `Hadamard`, `KeepNofM`, `LearnedScale`,
        `QuantizedActivations`), in order: each sees what those before it made.
      example_args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes are read.

    Returns:
      ``(fn', params')``: params' is a flat dict by dotted name, the old parameters and
      the new ones; ``fn'(params', *args)`` takes any shapes that `fn` takes.

    Raises:
      UsageError: a step's path matches no weight (``quant.rule_unused``), a use of one
        cannot be followed, or two steps add a parameter of one name (``recipe.name``).
    """
    structure: Any = jax.tree_util.tree_structure(params)
    names = tuple(named_leaves(params))

    def flat_fn(flat: Mapping[str, Any], *args: Any) -> Any:
        return fn(structure.unflatten([flat[name] for name in names]), *args)

    values = {name: jnp.asarray(leaf) for name, leaf in named_leaves(params).items()}
    program = trace(flat_fn, values, *example_args)
    done: list[tuple[Step, frozenset[str]]] = []
    for step in recipe:
        plan = make_plan(program, [step.rule])
        values, new = _grown(step, plan, values)
        program = apply_step(program, step, new, values)
        done.append((step, new))

    @functools.wraps(fn)
    def changed(params: Mapping[str, Any], *args: Any) -> Any:
        old = {name: params[name] for name in names}
        program = trace(flat_fn, old, *args)
        for step, new in done:
            program = apply_step(program, step, new, params)
        return program({name: params[name] for name in program.param_names}, *args)

    return changed, values


def _grown(
    step: Step, plan: Plan, values: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """All parameters after a step, and the names of those that it added."""
    out = dict(values)
    new: set[str] = set()
    for name, planned in plan.dots.items():
        step.check(name, plan)
        whole = jax_compat.replicated(jax_compat.explicit_sharding(jax.typeof(values[name])))
        add = jax_compat.in_auto_axes(functools.partial(step.added, name, planned=planned), whole)
        # Jitted: hundreds of small operations would each be compiled.
        for suffix, value in jax.jit(add)(values[name]).items():
            if f"{name}.{suffix}" in out:
                raise UsageError(
                    "recipe.name",
                    f"there is a parameter `{name}.{suffix}` already",
                    "the same step twice on one weight, or a parameter of that name: leave one out",
                )
            new.add(f"{name}.{suffix}")
            out[f"{name}.{suffix}"] = value
        first = functools.partial(step.initial, planned=planned)
        out[name] = jax.jit(_as_it_lies(first, values[name]))(values[name])
    return out, frozenset(new)


def check_whole(name: str, plan: Plan, step: str, *, alone: bool) -> None:
    """Refuses a weight of which a product sees a part, or (`alone`) that is used otherwise too."""
    planned = plan.dots[name]
    why = ""
    if not planned.whole:
        why = "a product sees only a slice or a shard of its inputs"
    elif alone and len(planned.layouts) > 1:
        why = "it is multiplied over several of its axes"
    elif alone and (plan.needs_float(name) or any(
        use.name == name and use.kind != "dot" for use in plan.uses
    )):  # fmt: skip
        why = "it is not only multiplied"
    if why:
        raise UsageError(
            "recipe.part",
            f"{step} cannot be applied to `{name}`: {why}{planned.use.where}",
            "leave the weight out of the recipe, or pass it as parameters of their own",
        )


def apply_step(
    program: Program, step: Step, new: frozenset[str], params: Mapping[str, Any]
) -> Program:
    """Pass: `program` with a step's new parameters, notes and activations.

    Args:
      new: names of the parameters that the step adds.
      params: where their shapes are read.
    """
    plan = make_plan(program, [step.rule])
    avals: dict[str, Any] = dict(zip(program.param_names, program.param_avals, strict=True))
    avals |= {name: jax.typeof(params[name]) for name in new}

    def run(leaves: Mapping[str, Any], inputs: Sequence[Any]) -> list[Any]:
        values = []
        for name in program.param_names:
            value = leaves[name]
            planned = plan.dots.get(name)
            if planned is not None:
                view = ParamView.of(name, value.shape, value=value)
                prefix = name + "."
                own = {n.removeprefix(prefix): leaves[n] for n in new if n.startswith(prefix)}
                value = step.enter(view, own, planned)
            values.append(value)
        return interpret(StepMode(step, plan), FOLLOW, program.jaxpr, [*values, *inputs])

    avals = {name: jax_compat.struct(aval) for name, aval in avals.items()}
    jaxpr = jax.make_jaxpr(run)(avals, program.input_avals)
    tree = jax.tree_util.tree_structure(avals)
    pass_name = f"recipe_{type(step).__name__}"
    return program.derived(pass_name, jaxpr, param_names=tuple(sorted(avals)), params_tree=tree)
