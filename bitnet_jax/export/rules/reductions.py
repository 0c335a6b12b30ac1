"""Rules: sums, extremes and running sums along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitnet_jax.export.lowering import WIDER, Lowering, Rule

# Reductions have kernels for these; anything else is widened.
_INTEGERS = {**WIDER, "bool": "int32"}


def reduced(op: str) -> Rule:
    """A rule of a reduction over the parameter ``axes``."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        axes, b = list(eqn.params["axes"]), low.builder
        if not axes:
            return list(values)
        dtype = str(eqn.invars[0].aval.dtype)
        wide = _INTEGERS.get(dtype)
        x = b.cast(values[0], wide) if wide else values[0]
        out = b.op(op, x, b.ints(axes), keepdims=0)
        result = str(eqn.outvars[0].aval.dtype)
        return [b.cast(out, result) if result != (wide or dtype) else out]

    return rule


def arg(op: str) -> Rule:
    """A rule of the index of an extreme."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        (axis,), b = eqn.params["axes"], low.builder
        dtype = str(eqn.invars[0].aval.dtype)
        wide = _INTEGERS.get(dtype)
        x = b.cast(values[0], wide) if wide else values[0]
        out = b.op(op, x, axis=axis, keepdims=0)
        return [b.cast(out, str(eqn.outvars[0].aval.dtype))]

    return rule


def _cumsum(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    b, dtype = low.builder, str(eqn.invars[0].aval.dtype)
    wide = _INTEGERS.get(dtype)
    x = b.cast(values[0], wide) if wide else values[0]
    axis = low.scalar(eqn.params["axis"], "int64")
    out = b.op("CumSum", x, axis, reverse=int(eqn.params["reverse"]))
    return [b.cast(out, dtype) if wide else out]


RULES: dict[str, Rule] = {
    "argmax": arg("ArgMax"),
    "argmin": arg("ArgMin"),
    "cumsum": _cumsum,
    "reduce_and": reduced("ReduceMin"),
    "reduce_max": reduced("ReduceMax"),
    "reduce_min": reduced("ReduceMin"),
    "reduce_or": reduced("ReduceMax"),
    "reduce_prod": reduced("ReduceProd"),
    "reduce_sum": reduced("ReduceSum"),
}
