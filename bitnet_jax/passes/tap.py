"""`tap`: any function's activations by path, beside its result.

Changes no value. What is read is named after the parameter that it meets:
``<path>:input`` and ``<path>:output`` of each product and lookup; and ``name:<name>``
for what the function itself named with `jax.ad_checkpoint.checkpoint_name`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from bitnet_jax.core import jax_compat
from bitnet_jax.core.errors import UsageError, nearest
from bitnet_jax.ir.follow import FOLLOW
from bitnet_jax.ir.interpreter import Context, interpret
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.modes import BoundMode
from bitnet_jax.passes.uses import is_float
from bitnet_jax.quant.rules import matches

Seen = dict[str, list[Any]]


@dataclass
class TapMode(BoundMode):
    """Floats everywhere; what a pattern names is kept.

    Attributes:
      bodies: what was seen, for each body that we are in, outermost first.
      known: every name met, for the error.
    """

    patterns: Sequence[str]
    bodies: list[Seen] = field(default_factory=lambda: [{}])
    known: dict[str, None] = field(default_factory=dict)

    def quantizes(self, view: ParamView) -> bool:
        """Every product is looked at."""
        return True

    def see(self, name: str, value: Any) -> None:
        """Keeps `value` if a pattern names it."""
        self.known[name] = None
        if any(matches(pattern, name) for pattern in self.patterns):
            self.bodies[-1].setdefault(name, []).append(value)

    def product(self, context: Context, eqn: Any, view: ParamView, side: int, other: Any) -> Any:
        """The float dot, its other operand and its result seen."""
        floats = view.array()
        (out,) = context.bind(eqn, [other, floats] if side else [floats, other])
        self._both(view, other, out)
        return out

    def ragged_product(
        self, context: Context, eqn: Any, view: ParamView, x: Any, sizes: Any
    ) -> Any:
        """The float ragged dot, its tokens and its result seen."""
        (out,) = context.bind(eqn, [x, view.array(), sizes])
        self._both(view, x, out)
        return out

    def gather(self, context: Context, eqn: Any, view: ParamView, indices: Sequence[Any]) -> Any:
        """The float lookup, its indices and its result seen."""
        out = super().gather(context, eqn, view, indices)
        self._both(view, indices[0], out)
        return out

    def _both(self, view: ParamView, before: Any, after: Any) -> None:
        self.see(f"{view.name}:input", before)
        self.see(f"{view.name}:output", after)

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


def _named(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """`checkpoint_name`: of a weight a view, of an activation something to see."""
    (value,) = values
    if isinstance(value, ParamView):
        return FOLLOW["name"](context, eqn, values)  # type: ignore[operator]
    (out,) = context.bind(eqn, values)
    context.mode.see(f"name:{eqn.params['name']}", out)  # type: ignore[attr-defined]
    return [out]


TABLE = {**FOLLOW, "name": _named}


def tap(fn: Callable[..., Any], patterns: str | Sequence[str]) -> Callable[..., Any]:
    """Turns ``fn(params, *args)`` into ``tapped(params, *args) -> (result, taps)``.

    Args:
      patterns: over names (``layers.*.mlp.down_proj:input``, ``name:block_*``), as paths of
        rules are written: `*` within a part, `**` for any number of parts.

    Returns:
      A function, differentiable and jittable, whose `taps` is a dict by name: an array,
      or a list of them where the name is met more than once. Inside a scan, an array has
      one more axis in front, of the scan's length.

    Raises:
      UsageError: when called: a pattern names nothing (``tap.unused``), or what it names
        lies where nothing more can be returned, in a `while` or a branch (``tap.inside``).
    """
    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)

    @functools.wraps(fn)
    def tapped(params: Any, *args: Any) -> tuple[Any, dict[str, Any]]:
        program = trace(fn, params, *args)
        return tap_program(program, wanted)(params, *args)

    return tapped


def tap_program(program: Program, patterns: Sequence[str]) -> Program:
    """Pass: `program`, returning ``(result, taps)``; as `tap`, for a traced program."""
    trees: list[Any] = []
    count = len(program.param_names)

    def run(args: Sequence[Any]) -> list[Any]:
        mode = TapMode(patterns)
        values = [
            ParamView.of(name, value.shape, value=value) if is_float(value) else value
            for name, value in zip(program.param_names, args[:count], strict=True)
        ]
        watched = frozenset({"name"})
        out = interpret(mode, TABLE, program.jaxpr, [*values, *args[count:]], watched=watched)
        _check_used(patterns, mode)
        (seen,) = mode.bodies
        taps = {name: v[0] if len(v) == 1 else v for name, v in sorted(seen.items())}
        flat, tree = jax.tree_util.tree_flatten((program.out_tree.unflatten(out), taps))
        trees.append(tree)
        return flat

    avals = [jax_compat.struct(aval) for aval in program.jaxpr.in_avals]
    jaxpr = jax.make_jaxpr(run)(avals)
    return program.derived("tap", jaxpr, out_tree=trees[-1])


def _check_used(patterns: Sequence[str], mode: TapMode) -> None:
    for pattern in patterns:
        if not any(matches(pattern, name) for name in mode.known):
            close = nearest(pattern, mode.known) or list(mode.known)[:3]
            raise UsageError(
                "tap.unused",
                f"`{pattern}` names no activation",
                "the closest are " + ", ".join(f"`{name}`" for name in close)
                if close
                else "no parameter met a product: tap the float function, and ternarize the result",
            )
