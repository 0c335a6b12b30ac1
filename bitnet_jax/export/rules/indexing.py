"""Rules: lookups, slices whose place is computed, scatters, sorting.

Every gather and scatter has one general form: positions in the flattened operand. A lookup of
whole rows, which is what models do, is ONNX's Gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitnet_jax.core import jax_compat
from bitnet_jax.export.dims import same, same_shape
from bitnet_jax.export.lowering import WIDER, Lowering, Rule
from bitnet_jax.export.rules.elementwise import where
from bitnet_jax.export.rules.shapes import arange


def _number(low: Lowering, value: Any) -> str:
    """An INT64 scalar of a size."""
    return low.dims.scalar(value)


def clamped(low: Lowering, index: str, most: str) -> str:
    """`index` within 0 … `most`."""
    b = low.builder
    return b.op("Max", b.op("Min", index, most), low.scalar(0, "int64"))


def _less(a: Any, b: Any) -> Any:
    return a - b


# ------------------------------------------------------------------------------------- gather
def _gather(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    (x, indices), b = values, low.builder
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    source, target = eqn.invars[0].aval, eqn.outvars[0].aval
    mode = _mode(eqn)
    raw = b.narrow.get(x, x)  # rows are looked up as they are stored, and widened
    ids = b.cast(indices, "int64")
    row = _row_axis(dims, sizes, source.shape)
    if row is not None:
        number = low.reshape(ids, eqn.invars[1].aval.shape, eqn.invars[1].aval.shape[:-1])
        # Where the user promised that all lie inside, JAX has the nearest row too.
        safe = clamped(low, number, _number(low, _less(source.shape[row], 1)))
        valid = b.op("Equal", safe, number) if mode == "fill" else None
        out = b.op("Gather", raw, safe, axis=row)
        if raw != x:
            out = b.cast(out, str(source.dtype))
        batch = len(eqn.invars[1].aval.shape) - 1
        out = _placed(low, out, row, batch, dims.offset_dims, len(target.shape))
        if valid is not None:
            out = _filled(low, eqn, out, _over_offsets(low, eqn, valid))
        return [out]
    flat, valid = _positions(
        low, eqn, ids, source.shape, eqn.invars[1].aval.shape, sizes, target.shape, mode
    )
    out = b.op("Gather", b.op("Reshape", x, b.ints([-1])), flat, axis=0)
    return [out if valid is None else _filled(low, eqn, out, valid)]


def _mode(eqn: Any) -> str:
    text = str(eqn.params.get("mode"))
    return "fill" if "FILL" in text else "clip"


def _row_axis(dims: Any, sizes: Sequence[Any], shape: Sequence[Any]) -> int | None:
    """The axis along which whole rows are looked up, if that is all a gather does."""
    indexed = tuple(dims.start_index_map)
    if len(indexed) != 1 or tuple(dims.collapsed_slice_dims) != indexed:
        return None
    if getattr(dims, "operand_batching_dims", ()):
        return None
    whole = all(
        same(s, n)
        for axis, (s, n) in enumerate(zip(sizes, shape, strict=True))
        if axis != indexed[0]
    )
    return indexed[0] if whole else None


def _placed(
    low: Lowering, out: str, axis: int, batch: int, offset_dims: Sequence[int], rank: int
) -> str:
    """ONNX has the indices' axes where the looked-up axis was; JAX has them elsewhere."""
    # In `out`: `axis` leading offsets, `batch` axes of indices, the other offsets.
    offsets = iter([*range(axis), *range(axis + batch, rank)])
    batches = iter(range(axis, axis + batch))
    perm = [next(offsets) if place in offset_dims else next(batches) for place in range(rank)]
    return low.builder.transpose(out, perm) if perm != list(range(rank)) else out


def _over_offsets(low: Lowering, eqn: Any, valid: str) -> str:
    """`valid` [batch axes], with axes of 1 where the result has offsets."""
    places = [
        a
        for a in range(len(eqn.outvars[0].aval.shape))
        if a in eqn.params["dimension_numbers"].offset_dims
    ]
    return low.builder.unsqueeze(valid, *places)


def _filled(low: Lowering, eqn: Any, out: str, valid: str) -> str:
    dtype = eqn.outvars[0].aval.dtype
    fill = (
        jax_compat.out_of_range(eqn)[1]
        if np.issubdtype(dtype, np.floating)
        else eqn.params.get("fill_value")
    )
    if fill is None:
        fill = _default_fill(dtype)
    name = str(dtype)
    value = (
        low.scalar(fill, "float32") if name in ("bfloat16", "float16") else low.scalar(fill, dtype)
    )
    value = low.builder.cast(value, name) if name in ("bfloat16", "float16") else value
    return where(low.builder, valid, out, value, name)


def _default_fill(dtype: Any) -> Any:
    """What JAX fills with: NaN, or of integers the number that is none of the array's."""
    if np.issubdtype(dtype, np.bool_):
        return True
    if not np.issubdtype(dtype, np.integer):
        return np.nan
    info = np.iinfo(dtype)
    return info.max if info.kind == "u" else info.min


def _positions(
    low: Lowering,
    eqn: Any,
    ids: str,
    shape: Sequence[Any],
    ids_shape: Sequence[Any],
    sizes: Sequence[Any],
    result: Sequence[Any],
    mode: str,
) -> tuple[str, str | None]:
    """Positions in the flattened operand, of `result`'s shape; and which of them are inside.

    The operand's index along axis d is the start that `ids` gives it, plus the place within the
    slice, plus, for a batching axis, the batch's own number.
    """
    b, dims = low.builder, eqn.params["dimension_numbers"]
    rank, depth = len(result), len(ids_shape) - 1
    offset_dims = _offset_dims(dims)
    batch_places = [place for place in range(rank) if place not in offset_dims]
    dropped = {*_dropped(dims), *_batching(dims)}
    kept = iter(offset_dims)
    places = {axis: next(kept) for axis in range(len(shape)) if axis not in dropped}
    total, valid = low.scalar(0, "int64"), None
    stride: Any = 1
    for axis in reversed(range(len(shape))):
        index = low.scalar(0, "int64")
        if axis in _index_map(dims):
            column = list(_index_map(dims)).index(axis)
            start = b.op("Gather", ids, low.scalar(column, "int64"), axis=depth)
            most = _number(low, _less(shape[axis], sizes[axis]))
            safe = clamped(low, start, most)
            if mode == "fill":
                inside = b.op("Equal", safe, start)
                valid = inside if valid is None else b.op("And", valid, inside)
            index = b.unsqueeze(safe, *(p for p in range(rank) if p not in batch_places))
        elif axis in _batching(dims):
            of_ids = _indices_batching(dims)[list(_batching(dims)).index(axis)]
            index = _along(low, ids_shape[of_ids], batch_places[of_ids], rank)
        if axis in places and not same(sizes[axis], 1):
            index = b.op("Add", index, _along(low, sizes[axis], places[axis], rank))
        if not same(shape[axis], 1):
            total = b.op("Add", total, b.op("Mul", index, _number(low, stride)))
        stride = stride * shape[axis]
    if valid is not None:
        valid = b.unsqueeze(valid, *(p for p in range(rank) if p not in batch_places))
    return b.op("Expand", total, low.dims.shape(result)), valid


def _along(low: Lowering, size: Any, place: int, rank: int) -> str:
    """0, 1, … along one of `rank` axes."""
    return low.reshape(arange(low, size), (size,), [size if p == place else 1 for p in range(rank)])


# The dimension numbers of a scatter are those of the gather that it undoes.
def _offset_dims(dims: Any) -> Sequence[int]:
    return dims.offset_dims if hasattr(dims, "offset_dims") else dims.update_window_dims


def _dropped(dims: Any) -> Sequence[int]:
    return dims.collapsed_slice_dims if hasattr(dims, "offset_dims") else dims.inserted_window_dims


def _batching(dims: Any) -> Sequence[int]:
    return getattr(dims, "operand_batching_dims", ())


def _indices_batching(dims: Any) -> Sequence[int]:
    found = getattr(dims, "start_indices_batching_dims", None)
    return getattr(dims, "scatter_indices_batching_dims", ()) if found is None else found


def _index_map(dims: Any) -> Sequence[int]:
    return (
        dims.start_index_map if hasattr(dims, "offset_dims") else dims.scatter_dims_to_operand_dims
    )


# ------------------------------------------------------------------------------------ scatter
def scatter(reduction: str) -> Rule:
    """A rule of ScatterElements on the flattened operand; what lies outside is dropped."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        (x, indices, updates), b = values, low.builder
        aval, ids_aval, new = (var.aval for var in eqn.invars)
        dims = eqn.params["dimension_numbers"]
        dropped = {*_dropped(dims), *_batching(dims)}
        windows = iter(dims.update_window_dims)
        sizes = [1 if a in dropped else new.shape[next(windows)] for a in range(len(aval.shape))]
        mode = _mode(eqn)
        flat, valid = _positions(
            low, eqn, b.cast(indices, "int64"), aval.shape, ids_aval.shape, sizes, new.shape, mode
        )
        dtype = str(aval.dtype)
        wide = {**WIDER, "bool": "int32"}.get(dtype)
        if wide:
            x, updates = b.cast(x, wide), b.cast(updates, wide)
        total = math.prod(aval.shape)
        line = b.op("Reshape", x, b.ints([-1]))
        if valid is not None:  # one more place takes what is dropped
            flat = b.op("Where", valid, flat, _number(low, total))
            line = b.op("Concat", line, b.const(np.zeros(1, wide or dtype)), axis=0)
        flat, updates = (b.op("Reshape", part, b.ints([-1])) for part in (flat, updates))
        line = b.op("ScatterElements", line, flat, updates, axis=0, reduction=reduction)
        if valid is not None:
            line = b.slice(line, 0, 0, -1)
        out = b.op("Reshape", line, low.dims.shape(aval.shape), allowzero=1)
        return [b.cast(out, dtype) if wide else out]

    return rule


# ----------------------------------------------------------------------- slices at computed places
def _starts(low: Lowering, eqn: Any, starts: Sequence[str], sizes: Sequence[Any]) -> dict[int, str]:
    """Axis to its start, INT64 scalar, moved inside; of axes that are not taken whole."""
    shape = eqn.invars[0].aval.shape
    return {
        axis: clamped(
            low,
            low.builder.cast(starts[axis], "int64"),
            _number(low, _less(shape[axis], sizes[axis])),
        )
        for axis in range(len(shape))
        if not same(shape[axis], sizes[axis])
    }


def _dynamic_slice(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    x, *starts = values
    sizes, b = eqn.outvars[0].aval.shape, low.builder
    found = _starts(low, eqn, starts, sizes)
    if not found:
        return [x]
    begin = [b.unsqueeze(start, 0) for start in found.values()]
    lengths = [low.dims.value(sizes[axis]) for axis in found]
    ends = [b.op("Add", *pair) for pair in zip(begin, lengths, strict=True)]
    joined = [p[0] if len(p) == 1 else b.op("Concat", *p, axis=0) for p in (begin, ends)]
    return [b.op("Slice", x, *joined, b.ints(list(found)))]


def _dynamic_update_slice(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    x, new, *starts = values
    b, dtype = low.builder, str(eqn.invars[0].aval.dtype)
    sizes = eqn.invars[1].aval.shape
    rank = len(sizes)
    found = _starts(low, eqn, starts, sizes)
    if same_shape(sizes, eqn.invars[0].aval.shape):
        return [new]
    if not found:
        return [new]
    wide = {**WIDER, "bool": "int32"}.get(dtype)
    if wide:
        x, new = b.cast(x, wide), b.cast(new, wide)
    # One axis at a time from the last: rows of what was there, with those of `new` between.
    if len(found) == 1:
        ((axis, start),) = found.items()
        index = b.op("Add", start, arange(low, sizes[axis]))
        shape = [sizes[axis] if place == axis else 1 for place in range(rank)]
        index = b.op("Expand", low.reshape(index, (sizes[axis],), shape), low.dims.shape(sizes))
        out = b.op("ScatterElements", x, index, new, axis=axis)
    else:
        parts = []
        for axis in range(rank):
            place = _along(low, sizes[axis], axis, rank)
            place = b.op("Add", place, found[axis]) if axis in found else place
            parts.append(b.unsqueeze(b.op("Expand", place, low.dims.shape(sizes)), rank))
        out = b.op("ScatterND", x, b.op("Concat", *parts, axis=rank), new)
    return [b.cast(out, dtype) if wide else out]


# ------------------------------------------------------------------------------------ sorting
def _top(low: Lowering, x: str, axis: int, count: Any, dtype: str, largest: int) -> tuple[str, str]:
    b = low.builder
    wide = {**WIDER, "bool": "int32"}.get(dtype)
    source = b.cast(x, wide) if wide else x
    found, index = b.ops(
        "TopK", source, low.dims.value(count), results=2, axis=axis, largest=largest, sorted=1
    )
    return (b.cast(found, dtype) if wide else found), index


def _sort(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    if eqn.params["num_keys"] != 1:
        raise low.refuse(eqn, "several keys", "sort by one key")
    axis, aval = eqn.params["dimension"], eqn.invars[0].aval
    first, index = _top(low, values[0], axis, aval.shape[axis], str(aval.dtype), 0)
    others = [low.builder.op("GatherElements", v, index, axis=axis) for v in values[1:]]
    return [first, *others]


def _top_k(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    aval = eqn.invars[0].aval
    axis = eqn.params.get("axis", len(aval.shape) - 1)
    found, index = _top(low, values[0], axis, eqn.params["k"], str(aval.dtype), 1)
    return [found, low.builder.cast(index, str(eqn.outvars[1].aval.dtype))]


RULES: dict[str, Rule] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": scatter("none"),
    "scatter-add": scatter("add"),
    "scatter-max": scatter("max"),
    "scatter-min": scatter("min"),
    "scatter-mul": scatter("mul"),
    "sort": _sort,
    "top_k": _top_k,
}
