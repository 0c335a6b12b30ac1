"""Rules: arrays shown in another shape or order, cut, joined, padded, counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bitnet_jax.export.dims import is_static, same
from bitnet_jax.export.lowering import WIDER, Lowering, Rule
from bitnet_jax.export.weights import Codes


def _reshape(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    return [low.reshape(values[0], eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)]


def _broadcast(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    aval, source = eqn.outvars[0].aval, eqn.invars[0].aval
    x, places = values[0], eqn.params["broadcast_dimensions"]
    sizes: list[Any] = [1] * len(aval.shape)
    for place, size in zip(places, source.shape, strict=True):
        sizes[place] = size
    wide = low.reshape(x, source.shape, sizes) if len(sizes) != len(source.shape) else x
    if all(same(a, b) for a, b in zip(sizes, aval.shape, strict=True)):
        return [wide]
    return [low.expand(wide, aval.shape, str(aval.dtype))]


def _transpose(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    return [low.builder.transpose(values[0], eqn.params["permutation"])]


def _slice(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    shape = eqn.invars[0].aval.shape
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    axes = [
        axis
        for axis, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True))
        if not (same(start, 0) and same(end, shape[axis]) and step == 1)
    ]
    if not axes:
        return [values[0]]
    b = low.builder
    inputs = (
        values[0],
        low.dims.shape([starts[axis] for axis in axes]),
        low.dims.shape([ends[axis] for axis in axes]),
        b.ints(axes),
        b.ints([steps[axis] for axis in axes]),
    )
    return [b.op("Slice", *inputs)]


def _concatenate(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    axis = eqn.params["dimension"]
    parts = [
        v for v, var in zip(values, eqn.invars, strict=True) if not same(var.aval.shape[axis], 0)
    ]
    if len(parts) <= 1:
        return [*(parts or values)][:1]
    return [low.builder.op("Concat", *parts, axis=axis)]


def _stack(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    axis = eqn.params["axis"]
    parts = [low.builder.unsqueeze(value, axis) for value in values]
    return [parts[0] if len(parts) == 1 else low.builder.op("Concat", *parts, axis=axis)]


def _split(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    sizes, axis = eqn.params["sizes"], eqn.params["axis"]
    if len(sizes) == 1:
        return list(values)
    inputs = (values[0], low.dims.shape(sizes))
    return list(low.builder.ops("Split", *inputs, results=len(sizes), axis=axis))


def pad(
    low: Lowering, x: str, shape: Sequence[Any], value: str, config: Sequence[Any], dtype: str
) -> str:
    """`lax.pad`: (low, high, interior) for each axis, negative edges cut."""
    b = low.builder
    wide = WIDER.get(dtype)
    if wide:
        x, value = b.cast(x, wide), b.cast(value, wide)
    sizes = list(shape)
    for axis, (_, _, inner) in enumerate(config):
        if inner and not same(sizes[axis], 0):
            # A new axis after this one holds the element and what follows it; the last is cut.
            apart = low.reshape(x, sizes, [*sizes[: axis + 1], 1, *sizes[axis + 1 :]])
            edges = [0] * (len(sizes) + 1) * 2
            edges[len(sizes) + 1 + axis + 1] = inner
            apart = b.op("Pad", apart, b.ints(edges), value, mode="constant")
            whole = sizes[axis] * (inner + 1)
            spread = [*sizes[: axis + 1], inner + 1, *sizes[axis + 1 :]]
            x = low.reshape(apart, spread, [*sizes[:axis], whole, *sizes[axis + 1 :]])
            x = b.slice(x, axis, 0, -inner)
            sizes[axis] = whole - inner
    for axis, (before, after, _) in enumerate(config):
        cut = (
            -before if is_static(before) and before < 0 else 0,
            after if is_static(after) and after < 0 else 0,
        )
        if cut != (0, 0):
            x = b.slice(x, axis, cut[0], cut[1] if cut[1] else np.iinfo(np.int64).max)
    edges = [0 if is_static(e[i]) and e[i] < 0 else e[i] for i in (0, 1) for e in config]
    if any(not same(edge, 0) for edge in edges):
        x = b.op("Pad", x, low.dims.shape(edges), value, mode="constant")
    return b.cast(x, dtype) if wide else x


def _pad(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    aval = eqn.invars[0].aval
    config = eqn.params["padding_config"]
    return [pad(low, values[0], aval.shape, values[1], config, str(aval.dtype))]


def _rev(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    x = values[0]
    for axis in eqn.params["dimensions"]:
        x = low.builder.slice(x, axis, -1, np.iinfo(np.int64).min, -1)
    return [x]


def arange(low: Lowering, size: Any, dtype: str = "int64") -> str:
    """0, 1, … `size` - 1 as a vector."""
    b = low.builder
    if is_static(size) and size <= 64:
        return b.const(np.arange(int(size), dtype=np.dtype(dtype)))
    out = b.op("Range", low.scalar(0, "int64"), low.dims.scalar(size), low.scalar(1, "int64"))
    return out if dtype == "int64" else b.cast(out, dtype)


def _iota(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    aval, axis = eqn.outvars[0].aval, eqn.params["dimension"]
    row = arange(low, aval.shape[axis], str(aval.dtype))
    sizes = [aval.shape[axis] if place == axis else 1 for place in range(len(aval.shape))]
    row = low.reshape(row, (aval.shape[axis],), sizes)
    if all(same(a, b) for a, b in zip(sizes, aval.shape, strict=True)):
        return [row]
    return [low.expand(row, aval.shape, str(aval.dtype))]


def _dim(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    return [low.dims.scalar(eqn.params["dim"], str(eqn.outvars[0].aval.dtype))]


def _tile(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    return [low.builder.op("Tile", values[0], low.dims.shape(eqn.params["reps"]))]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dim_as_value": _dim,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}


# ---------------------------------------------------------------- packed codes: stacked axes alone
def _lead(codes: Codes, shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape[: len(shape) - codes.packed_axes])


def _codes_reshape(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
    codes = values[0]
    shape, packed = eqn.outvars[0].aval.shape, codes.packed_axes
    lead = _lead(codes, shape)
    if tuple(shape[-packed:]) != tuple(eqn.invars[0].aval.shape[-packed:]) or math.prod(
        lead
    ) != math.prod(codes.lead):
        raise low.refuse(
            eqn, f"the packed codes of `{codes.leaf}` are taken apart", "keep that parameter float"
        )
    matrix = [codes.quant.in_features, codes.quant.out_features]
    if codes.moves is None:
        return [replace(codes, lead=lead)]
    old = codes.lead
    return [codes.then(lead, lambda name: low.reshape(name, [*old, *matrix], [*lead, *matrix]))]


def _codes_slice(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
    codes = values[0]
    lead = _lead(codes, eqn.outvars[0].aval.shape)
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    count = len(lead)
    if eqn.outvars[0].aval.shape[count:] != eqn.invars[0].aval.shape[count:]:
        raise low.refuse(
            eqn, f"part of a matrix of packed codes (`{codes.leaf}`)", "keep that parameter float"
        )

    def move(name: str) -> str:
        for axis in range(count):
            name = low.builder.slice(name, axis, starts[axis], ends[axis], steps[axis])
        return name

    return [codes.then(lead, move)]


def _codes_dynamic_slice(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[Any]:
    codes, *starts = values
    lead = _lead(codes, eqn.outvars[0].aval.shape)
    if eqn.outvars[0].aval.shape[len(lead) :] != eqn.invars[0].aval.shape[len(lead) :]:
        raise low.refuse(
            eqn, f"part of a matrix of packed codes (`{codes.leaf}`)", "keep that parameter float"
        )
    before = codes.lead

    def move(name: str) -> str:
        b = low.builder
        for axis, size in enumerate(lead):
            if size == before[axis]:
                continue
            start = b.cast(starts[axis], "int64")
            start = b.op(
                "Max",
                b.op("Min", start, low.scalar(before[axis] - size, "int64")),
                low.scalar(0, "int64"),
            )
            name = b.op(
                "Gather",
                name,
                b.op("Add", b.unsqueeze(start, 0), b.const(np.arange(size))),
                axis=axis,
            )
        return name

    return [codes.then(lead, move)]


ON_CODES: dict[str, Rule] = {
    "reshape": _codes_reshape,
    "squeeze": _codes_reshape,
    "expand_dims": _codes_reshape,
    "slice": _codes_slice,
    "dynamic_slice": _codes_dynamic_slice,
    "optimization_barrier": lambda low, eqn, values: list(values),
    "copy": lambda low, eqn, values: list(values),
}
