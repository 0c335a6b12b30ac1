"""Rules: contractions and convolutions of floats and of integers.

A product of 8-bit integers is MatMulInteger, exact: a Gemm or MatMul of int8 is no ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bitnet_jax.export.lowering import WIDER, Lowering, Rule
from bitnet_jax.export.rules.shapes import pad

_EIGHT_BITS = ("int8", "uint8")


def matmul(low: Lowering, a: str, b: str, dtypes: Sequence[str], out: str) -> str:
    """ONNX's (batched) product of two dtypes as dtype `out`: exact for integers."""
    builder = low.builder
    if all(dtype in _EIGHT_BITS for dtype in dtypes):
        # A signed left side with an unsigned right one has no kernel.
        if list(dtypes) != ["int8", "uint8"]:
            acc = builder.op("MatMulInteger", a, b)
            return acc if out == "int32" else builder.cast(acc, out)
    floats = any("float" in dtype for dtype in dtypes)
    wide = ("float64" if "float64" in dtypes else "float32") if floats else _integers(dtypes, out)
    sides = [
        x if dtype == wide else builder.cast(x, wide)
        for x, dtype in zip((a, b), dtypes, strict=True)
    ]
    y = builder.op("MatMul", *sides)
    return y if out == wide else builder.cast(y, out)


def _integers(dtypes: Sequence[str], out: str) -> str:
    return "int64" if any("64" in dtype for dtype in (*dtypes, out)) else "int32"


def _dot_general(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    (inner, batch), b = eqn.params["dimension_numbers"], low.builder
    avals = [var.aval for var in eqn.invars]
    target = eqn.outvars[0].aval
    dtypes = [str(aval.dtype) for aval in avals]
    free = [
        [a for a in range(len(aval.shape)) if a not in inner[side] and a not in batch[side]]
        for side, aval in enumerate(avals)
    ]
    x, w = values
    # [..., in] by a matrix: no reshape, whatever stands before.
    last = len(avals[0].shape) - 1
    plain = not batch[0] and tuple(inner[0]) == (last,) and len(avals[1].shape) == 2 and last > 0
    if plain:
        w = w if inner[1][0] == 0 else b.transpose(w, (1, 0))
        return [matmul(low, x, w, dtypes, str(target.dtype))]
    sizes = [avals[0].shape[axis] for axis in batch[0]]
    depth = math.prod(avals[0].shape[axis] for axis in inner[0])
    rows, columns = (
        math.prod(aval.shape[axis] for axis in axes) for aval, axes in zip(avals, free, strict=True)
    )
    x = b.transpose(x, [*batch[0], *free[0], *inner[0]])
    w = b.transpose(w, [*batch[1], *inner[1], *free[1]])
    moved = [
        [avals[side].shape[axis] for axis in order]
        for side, order in enumerate(
            ([*batch[0], *free[0], *inner[0]], [*batch[1], *inner[1], *free[1]])
        )
    ]
    x = low.reshape(x, moved[0], [*sizes, rows, depth])
    w = low.reshape(w, moved[1], [*sizes, depth, columns])
    y = matmul(low, x, w, dtypes, str(target.dtype))
    return [low.reshape(y, [*sizes, rows, columns], target.shape)]


# -------------------------------------------------------------------------------- convolutions
def _convolution(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    p, b = eqn.params, low.builder
    if p["batch_group_count"] != 1:
        raise low.refuse(eqn, "batch groups (a derivative's)", "export the forward function")
    numbers = p["dimension_numbers"]
    x, kernel = (
        b.transpose(value, spec)
        for value, spec in zip(values, (numbers.lhs_spec, numbers.rhs_spec), strict=True)
    )
    avals = [var.aval for var in eqn.invars]
    dtypes = [str(aval.dtype) for aval in avals]
    out = str(eqn.outvars[0].aval.dtype)
    spread = [(0, 0, step - 1) for step in p["lhs_dilation"]]
    edges = list(p["padding"])
    shape = [avals[0].shape[axis] for axis in numbers.lhs_spec]
    if any(inner for _, _, inner in spread) or any(e < 0 for pair in edges for e in pair):
        zero = low.scalar(0, WIDER.get(dtypes[0], dtypes[0]))
        zero = b.cast(zero, dtypes[0])
        config = [(0, 0, 0)] * 2 + [
            (*edge, inner) for edge, (_, _, inner) in zip(edges, spread, strict=True)
        ]
        x = pad(low, x, shape, zero, config, dtypes[0])
        edges = [(0, 0)] * len(edges)
    attributes = {
        "strides": list(p["window_strides"]),
        "dilations": list(p["rhs_dilation"]),
        "pads": [*(e[0] for e in edges), *(e[1] for e in edges)],
        "group": p["feature_group_count"],
    }
    if "float" in dtypes[0]:
        wide = "float64" if dtypes[0] == "float64" else "float32"
        y = b.op(
            "Conv",
            *(
                b.cast(v, wide) if d != wide else v
                for v, d in zip((x, kernel), dtypes, strict=True)
            ),
            **attributes,
        )
    elif all(dtype in _EIGHT_BITS for dtype in dtypes):
        wide = "int32"
        y = b.op("ConvInteger", x, kernel, **attributes)
    else:
        raise low.refuse(
            eqn, f"a convolution of {dtypes[0]}", "floats and 8-bit integers are exported"
        )
    y = y if out == wide else b.cast(y, out)
    order = [numbers.out_spec.index(axis) for axis in range(len(numbers.out_spec))]
    return [b.transpose(y, order)]


# ------------------------------------------------------------------------------------- windows
def window(kind: str) -> Rule:
    """A rule of pooling: of the axes whose window is not 1; others are put before them."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        p, b, aval = eqn.params, low.builder, eqn.invars[0].aval
        rank = len(aval.shape)
        strides = p["window_strides"]
        axes = [
            a for a in range(rank)
            if p["window_dimensions"][a] != 1 or strides[a] != 1 or tuple(p["padding"][a]) != (0, 0)
        ]  # fmt: skip
        if any(step != 1 for step in p["base_dilation"]):
            raise low.refuse(eqn, "a dilated base", "pad it yourself")
        dtype = str(aval.dtype)
        if not axes:
            return list(values)
        if dtype not in ("float32", "float16", "bfloat16"):
            raise low.refuse(eqn, f"a window of {dtype}", "floats are exported")
        rest = [a for a in range(rank) if a not in axes]
        moved = [aval.shape[a] for a in (*rest, *axes)]
        count = math.prod(aval.shape[a] for a in rest)
        x = b.transpose(values[0], [*rest, *axes])
        x = low.reshape(x, moved, [count, 1, *(aval.shape[a] for a in axes)])
        x = b.cast(x, "float32") if dtype in WIDER else x
        edges = [p["padding"][a] for a in axes]
        attributes: dict[str, Any] = {
            "strides": [strides[a] for a in axes],
            "dilations": [p["window_dilation"][a] for a in axes],
            "pads": [*(e[0] for e in edges), *(e[1] for e in edges)],
        }
        sizes = [p["window_dimensions"][a] for a in axes]
        y = _POOLS[kind](low, x, sizes, attributes)
        y = b.cast(y, dtype) if dtype in WIDER else y
        target = eqn.outvars[0].aval.shape
        y = low.reshape(
            y, [count, 1, *(target[a] for a in axes)], [target[a] for a in (*rest, *axes)]
        )
        order = [*rest, *axes]
        return [b.transpose(y, [order.index(a) for a in range(rank)])]

    return rule


def _sum(low: Lowering, x: str, sizes: Sequence[int], attributes: dict[str, Any]) -> str:
    import numpy as np

    ones = low.builder.const(np.ones((1, 1, *sizes), np.float32))
    return low.builder.op("Conv", x, ones, **attributes)


def _max(low: Lowering, x: str, sizes: Sequence[int], attributes: dict[str, Any]) -> str:
    return low.builder.op("MaxPool", x, kernel_shape=list(sizes), **attributes)


def _min(low: Lowering, x: str, sizes: Sequence[int], attributes: dict[str, Any]) -> str:
    b = low.builder
    return b.op("Neg", _max(low, b.op("Neg", x), sizes, attributes))


_POOLS = {"sum": _sum, "max": _max, "min": _min}

RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "reduce_window_max": window("max"),
    "reduce_window_min": window("min"),
    "reduce_window_sum": window("sum"),
}
