"""What is left of a parameter after an operation that may be half of a product.

Rows that an index took (`w[perm]`), and a weight that was multiplied or added
elementwise (`x[:, :, None] * w`), are no parameter any more. Mostly they are activations
(an embedding, a gain, a bias); where they are contracted after all, the function has
multiplied by the parameter without a product that can be quantized, and that must not pass
without a word. So they are followed too, as a view with a `Remnant`, while uses are
collected: `TABLE` is `ir.follow.FOLLOW` with the rows that make and meet remnants.

Knows nothing of rules: the mode's `hidden` says what is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bitnet_jax.ir.follow import FOLLOW, is_wider
from bitnet_jax.ir.interpreter import Construct, Context, Rule
from bitnet_jax.ir.views import ParamView, Remnant
from bitnet_jax.passes.geometry import contraction


def remnant(
    view: ParamView, shape: Sequence[int], own: Sequence[int], free: Sequence[int] = ()
) -> ParamView:
    """An array of `shape` that was made of `view`.

    Args:
      own: its axes along which the parameter varies.
      free: those of them along which what it was multiplied by does not.
    """
    left = Remnant(tuple(own), tuple(free))
    return replace(ParamView.of(view.name, shape), remnant=left)


def rows_taken(view: ParamView, eqn: Any) -> ParamView:
    """What a lookup gives: all of its axes are the parameter's."""
    return remnant(view, eqn.outvars[0].aval.shape, _long(eqn.outvars[0].aval.shape))


def _long(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(shape) if size > 1)


def _is_remnant(value: Any) -> bool:
    return isinstance(value, ParamView) and value.remnant is not None


def _is_own(view: ParamView, axis: int) -> bool:
    """True if the parameter varies along current axis `axis`."""
    left = view.remnant
    return left is None or any(view.origin[atom.axis] in left.own for atom in view.axes[axis])


def _without(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """`values` with every remnant an array."""
    return [context.mode.other(context, eqn, v) if _is_remnant(v) else v for v in values]


def _usual(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """What the equation does where remnants are arrays."""
    bare = _without(context, eqn, values)
    row = FOLLOW.get(eqn.primitive.name)
    if not any(isinstance(value, ParamView) for value in bare):
        return context.bind(eqn, bare)
    if row is None:
        return context.bind(eqn, context.plain(eqn, bare))
    assert not isinstance(row, Construct)
    return row(context, eqn, bare)


def _elementwise(*, product: bool) -> Rule:
    """A row for operations of two arrays: a weight or a remnant may come out of it."""

    def rule(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
        usual = _usual(context, eqn, values)
        for value, other in zip(values, reversed(values), strict=True):
            if not isinstance(value, ParamView) or value.constant:
                continue
            if isinstance(other, ParamView) and not other.constant:
                # A gain or a bias that is a parameter: what is gained stays what it was.
                left = value if _is_remnant(value) else None
            else:
                sizes = _sizes(other, value.ndim)
                left = _left(value, sizes, eqn.outvars[0].aval.shape, product)
            if left is not None and left.current_shape == eqn.outvars[0].aval.shape:
                return [left]
        return usual

    return rule


def _sizes(other: Any, rank: int) -> tuple[int, ...]:
    """The shape of what a view of `rank` axes meets; a number has it too."""
    shape = other.current_shape if isinstance(other, ParamView) else getattr(other, "shape", ())
    return tuple(shape) or (1,) * rank


def _left(
    value: ParamView, sizes: Sequence[int], shape: Sequence[int], product: bool
) -> ParamView | None:
    """What is left of a view that met an array of `sizes` elementwise."""
    kept = value.remnant is not None and math.prod(sizes) == 1
    if value.remnant is not None and (kept or not is_wider(value, sizes)):
        # As many elements as before: rows that a mask leaves out, an embedding times √d. What
        # an array is added to is an activation.
        return value if product or kept else None
    own = tuple(axis for axis in _long(value.current_shape) if _is_own(value, axis))
    if len(own) < 2 or (value.remnant is not None and not product):
        return None
    free = tuple(axis for axis in own if sizes[axis] == 1) if product else ()
    return remnant(value, shape, own, free)


def _divide(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """A remnant divided is one multiplied; a weight divided is no gain."""
    if _is_remnant(values[0]):
        return _elementwise(product=True)(context, eqn, values)
    return _usual(context, eqn, values)


def _negate(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    return list(values) if _is_remnant(values[0]) else _usual(context, eqn, values)


def _sum(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """``(x[:, :, None] * w).sum(1)`` is ``x @ w``."""
    (view,) = values
    if _is_remnant(view):
        summed = {view.origin[atom.axis] for axis in eqn.params["axes"] for atom in view.axes[axis]}
        inner = summed & set(view.remnant.own) - set(view.remnant.free)
        if inner and set(view.remnant.free) - summed:
            context.mode.hidden(context, eqn, view)  # type: ignore[attr-defined]
    return _usual(context, eqn, values)


def _dot_general(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """A product with what no weight is: then the remnant is the weight in it."""
    weights = any(isinstance(v, ParamView) and not _is_remnant(v) for v in values)
    for side, view in enumerate(values):
        if weights or not _is_remnant(view):
            continue
        found = contraction(view, side, eqn.params["dimension_numbers"])
        if found is None:
            continue
        own = {axis for axis, number in enumerate(view.origin) if number in view.remnant.own}
        if own & set(found.inner) and own & set(found.kept):
            context.mode.hidden(context, eqn, view)  # type: ignore[attr-defined]
            break
    return _usual(context, eqn, values)


TABLE: dict[str, Rule | Construct] = {
    **FOLLOW,
    "mul": _elementwise(product=True),
    "add": _elementwise(product=False),
    "sub": _elementwise(product=False),
    "div": _divide,
    "neg": _negate,
    "reduce_sum": _sum,
    "dot_general": _dot_general,
    "ragged_dot_general": _usual,
}
