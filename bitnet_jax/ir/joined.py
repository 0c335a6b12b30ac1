"""Weights that the function joins before it multiplies: ``x @ concatenate([wq, wk], 1)``.

Along an axis that the product keeps, that is the product with each part, joined: each part
is followed by itself and has the scale that it would have alone. Any other use is one of
`concatenate`'s own operands: the mode decides, as for every primitive without a row.

Knows nothing of quantization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jax import lax

from bitnet_jax.ir.views import ParamView

if TYPE_CHECKING:
    from bitnet_jax.ir.interpreter import Context, Rule


@dataclass(frozen=True)
class Joined:
    """Parts joined along current axis `axis`; at least one is a view.

    Attributes:
      eqn: the `concatenate`, for where it stands.
    """

    parts: tuple[Any, ...]
    axis: int
    eqn: Any


def join(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The row of `concatenate`: matrices may be multiplied one by one."""
    weights = [v for v in values if _is_weight(v)]
    parts = [
        v if _is_weight(v) or not isinstance(v, ParamView) else context.mode.other(context, eqn, v)
        for v in values
    ]
    if not weights:
        return context.bind(eqn, parts)
    return [Joined(tuple(parts), eqn.params["dimension"], eqn)]


def _is_weight(value: Any) -> bool:
    matrix = isinstance(value, ParamView) and value.ndim > 1
    return matrix and not value.constant


def through(context: Context, eqn: Any, values: Sequence[Any], row: Rule) -> list[Any]:
    """An equation that something joined reaches."""
    name = eqn.primitive.name
    if name in ("jit", "closed_call"):
        return row(context, eqn, values)  # inlined
    places = [place for place, value in enumerate(values) if isinstance(value, Joined)]
    joined = values[places[0]]
    if name == "transpose":
        parts = _each(context, eqn, joined, row)
        return [Joined(parts, eqn.params["permutation"].index(joined.axis), joined.eqn)]
    if name in ("convert_element_type", "copy", "stop_gradient", "name"):
        return [Joined(_each(context, eqn, joined, row), joined.axis, joined.eqn)]
    if name == "dot_general" and len(places) == 1:
        (contract, batch), side = eqn.params["dimension_numbers"], places[0]
        other = values[1 - side]
        if joined.axis not in (*contract[side], *batch[side]) and not isinstance(other, ParamView):
            return [_product(context, eqn, joined, other, side, row)]
    return row(context, eqn, [apart(context, value) for value in values])


def apart(context: Context, value: Any) -> Any:
    """The array that something joined stands for, by the mode's leave; any other value itself."""
    if not isinstance(value, Joined):
        return value
    return context.bind(value.eqn, context.plain(value.eqn, value.parts))[0]


def _each(context: Context, eqn: Any, joined: Joined, row: Rule) -> tuple[Any, ...]:
    """The equation on each part."""
    return tuple(
        (row(context, eqn, [p]) if isinstance(p, ParamView) else context.bind(eqn, [p]))[0]
        for p in joined.parts
    )


def _product(context: Context, eqn: Any, joined: Joined, other: Any, side: int, row: Rule) -> Any:
    """The products with each part, joined along the axis of the result that the parts make."""
    (contract, batch) = eqn.params["dimension_numbers"]
    used = {*contract[side], *batch[side]}
    place = sum(axis not in used for axis in range(joined.axis)) + len(batch[side])
    if side:  # the other's own axes stand in front
        place += len(other.shape) - len(contract[0]) - len(batch[0])
    results = []
    for part in joined.parts:
        operands = [other, part] if side else [part, other]
        follow = isinstance(part, ParamView)
        out = row(context, eqn, operands) if follow else context.bind(eqn, operands)
        results.append(out[0])
    return eqn.outvars[0].aval if context.abstract else lax.concatenate(results, place)
