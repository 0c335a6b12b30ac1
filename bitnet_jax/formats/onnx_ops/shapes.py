"""Operators that move elements and compute none: shapes, slices, joins, gathers, scatters."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.onnx_ops.table import (
    Node,
    axis_of,
    cast,
    checked_size,
    ints,
    is_static,
    operator,
    xp,
)


# ----------------------------------------------------------------------------- shapes
@operator("Shape")
def shape(node: Node, x: Any) -> Any:
    start, end = node.get("start", 0), node.get("end", x.ndim)
    return np.array(x.shape[start:end] if x.ndim else (), np.int64)


@operator("Size")
def size(node: Node, x: Any) -> Any:
    return np.array(math.prod(x.shape), np.int64)


@operator("Reshape", static=(1,))
def reshape(node: Node, x: Any, to: Any = None) -> Any:
    """0 keeps a size (unless `allowzero`), -1 is what is left."""
    wanted = ints(to if to is not None else node.need("shape"))
    if not node.get("allowzero", 0):
        if any(item == 0 and index >= x.ndim for index, item in enumerate(wanted)):
            raise node.broken(f"keeps a size that {list(x.shape)} has not: {wanted}")
        wanted = [x.shape[i] if item == 0 else item for i, item in enumerate(wanted)]
    known = math.prod(item for item in wanted if item != -1)
    count = math.prod(x.shape)
    fits = count % known == 0 if -1 in wanted and known else known == count
    if wanted.count(-1) > 1 or any(item < -1 for item in wanted) or not fits:
        raise node.broken(f"reshapes {list(x.shape)} to {wanted}")
    if -1 in wanted:
        wanted[wanted.index(-1)] = count // known
    return xp(x).reshape(x, wanted)


@operator("Flatten")
def flatten(node: Node, x: Any) -> Any:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return xp(x).reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose")
def transpose(node: Node, x: Any) -> Any:
    order = node.get("perm") or list(reversed(range(x.ndim)))
    if sorted(order) != list(range(x.ndim)):
        raise node.broken(f"permutes {x.ndim} axes by {order}")
    return xp(x).transpose(x, order)


def _axes(node: Node, given: Any) -> list[int] | None:
    found = given if given is not None else node.get("axes")
    return None if found is None else ints(found)


@operator("Squeeze", static=(1,))
def squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    chosen = _axes(node, axes)
    if chosen is None:
        chosen = [axis for axis, item in enumerate(x.shape) if item == 1]
    chosen = [axis_of(node, axis, x.ndim) for axis in chosen]
    if any(x.shape[axis] != 1 for axis in chosen):
        raise node.broken(f"drops axes {chosen} of shape {list(x.shape)}")
    return xp(x).squeeze(x, tuple(chosen))


@operator("Unsqueeze", static=(1,))
def unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    chosen = _axes(node, axes) or []
    rank = x.ndim + len(chosen)
    return xp(x).expand_dims(x, tuple(axis_of(node, axis, rank) for axis in chosen))


@operator("Expand", static=(1,))
def expand(node: Node, x: Any, to: Any) -> Any:
    try:
        wanted = np.broadcast_shapes(x.shape, tuple(ints(to)))
    except ValueError:
        raise node.broken(f"expands {list(x.shape)} to {ints(to)}") from None
    return xp(x).broadcast_to(x, checked_size(node, wanted))


@operator("Tile", static=(1,))
def tile(node: Node, x: Any, repeats: Any) -> Any:
    times = ints(repeats)
    checked_size(node, [a * b for a, b in zip(x.shape, times, strict=True)])
    return xp(x).tile(x, times)


@operator("Concat")
def concat(node: Node, *values: Any) -> Any:
    lib = xp(*values)
    return lib.concatenate(values, axis_of(node, node.get("axis", 1), values[0].ndim))


@operator("Split", static=(1,))
def split(node: Node, x: Any, sizes: Any = None) -> Any:
    axis = axis_of(node, node.get("axis", 0), x.ndim)
    given = sizes if sizes is not None else node.get("split")
    whole = x.shape[axis]
    if given is None:
        count = node.get("num_outputs", node.outputs)
        each = -(-whole // count)
        given = [max(min(each, whole - each * i), 0) for i in range(count)]
    given = ints(given)
    if sum(given) != whole:
        raise node.broken(f"splits {whole} into {given}")
    return tuple(xp(x).split(x, np.cumsum(given)[:-1].tolist(), axis))


@operator("Slice", static=(1, 2, 3, 4))
def slice_(
    node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    """Attributes before opset 10."""
    begin = ints(node.need("starts") if starts is None else starts)
    end = ints(node.need("ends") if ends is None else ends)
    chosen = _axes(node, axes) or list(range(len(begin)))
    step = ints(steps) if steps is not None else [1] * len(begin)
    index = [slice(None)] * x.ndim
    for axis, low, high, by in zip(chosen, begin, end, step, strict=True):
        axis = axis_of(node, axis, x.ndim)
        if by == 0:
            raise node.broken("slices by steps of 0")
        # A negative end below the first element means: to the first one.
        stop = None if by < 0 and high < -x.shape[axis] else high
        index[axis] = slice(low, stop, by)
    return x[tuple(index)]


@operator("Pad", static=(1, 3), notes="modes constant, edge, reflect, wrap")
def pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    widths = ints(pads if pads is not None else node.get("pads", node.get("paddings")))
    fill = node.get("value", 0.0) if value is None else value
    chosen = ints(axes) if axes is not None else list(range(x.ndim))
    half = len(widths) // 2
    both = [(0, 0)] * x.ndim
    for axis, low, high in zip(chosen, widths[:half], widths[half:], strict=True):
        both[axis_of(node, axis, x.ndim)] = (low, high)
    x = x[tuple(slice(max(-low, 0), n - max(-high, 0)) for (low, high), n in
                zip(both, x.shape, strict=True))]  # fmt: skip
    both = [(max(low, 0), max(high, 0)) for low, high in both]
    checked_size(node, [n + low + high for n, (low, high) in zip(x.shape, both, strict=True)])
    mode = node.get("mode", "constant")
    lib = xp(x, value)
    if mode == "constant":
        return lib.pad(x, both, constant_values=cast(lib.asarray(fill).reshape(()), x.dtype))
    if mode not in ("edge", "reflect", "wrap"):
        raise node.broken(f"pads in mode `{mode}`")
    return lib.pad(x, both, mode=mode)


# --------------------------------------------------------------------------- made here
@operator("ConstantOfShape", static=(0,))
def constant_of_shape(node: Node, to: Any) -> Any:
    value = node.get("value", np.zeros(1, np.float32))
    return np.full(checked_size(node, ints(to)), value.reshape(()), value.dtype)


@operator("Range", static=(0, 1, 2))
def range_(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    if not delta.reshape(()):
        raise node.broken("counts by steps of 0")
    count = max(math.ceil((limit.reshape(()) - start.reshape(())) / delta.reshape(())), 0)
    checked_size(node, [count])
    return (start + np.arange(count) * delta).reshape(-1).astype(start.dtype)


@operator("EyeLike")
def eye_like(node: Node, x: Any) -> Any:
    from bitnet_jax.formats.onnx_ops.elementwise import to_type

    rows, columns = checked_size(node, x.shape)
    found = np.eye(rows, columns, node.get("k", 0), dtype=np.float32)
    kind = node.get("dtype")
    return found.astype(x.dtype) if kind is None else to_type(node, found, kind)


@operator("Trilu", static=(1,))
def trilu(node: Node, x: Any, k: Any = None) -> Any:
    lib = xp(x)
    cut = lib.triu if node.get("upper", 1) else lib.tril
    return cut(x, 0 if k is None else int(k.reshape(())))


@operator("OneHot", static=(1,))
def one_hot(node: Node, indices: Any, depth: Any, values: Any) -> Any:
    count = int(depth.reshape(()))
    checked_size(node, [*indices.shape, count])
    lib = xp(indices, values)
    axis = axis_of(node, node.get("axis", -1), indices.ndim + 1)
    indices = lib.where(indices < 0, indices + count, indices)
    hot = lib.expand_dims(indices, axis) == lib.arange(count).reshape(
        [count if i == axis else 1 for i in range(indices.ndim + 1)]
    )
    return lib.where(hot, values[1], values[0])


# ---------------------------------------------------------------- gathers and scatters
@operator("Gather")
def gather(node: Node, x: Any, indices: Any) -> Any:
    axis = axis_of(node, node.get("axis", 0), x.ndim)
    if is_static(indices) and indices.size:
        _check_range(node, indices, x.shape[axis])
    return xp(x, indices).take(x, indices, axis)


def _check_range(node: Node, indices: np.ndarray, count: int) -> None:
    if indices.min() < -count or indices.max() >= count:
        raise node.broken(f"takes elements {indices.min()} to {indices.max()} of {count}")


@operator("GatherElements")
def gather_elements(node: Node, x: Any, indices: Any) -> Any:
    axis = axis_of(node, node.get("axis", 0), x.ndim)
    lib = xp(x, indices)
    # The other axes of `indices` may be shorter.
    cut = tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape))
    return lib.take_along_axis(x[cut], indices, axis)


@operator("GatherND")
def gather_nd(node: Node, x: Any, indices: Any) -> Any:
    batch, lib = node.get("batch_dims", 0), xp(x, indices)
    own = tuple(indices[..., i] for i in range(indices.shape[-1]))
    lead = tuple(
        lib.arange(x.shape[axis]).reshape(
            [x.shape[axis] if i == axis else 1 for i in range(indices.ndim - 1)]
        )
        for axis in range(batch)
    )
    return x[(*lead, *own)]


_REDUCTIONS = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}
_NUMPY = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(node: Node, x: Any, index: tuple[Any, ...], updates: Any) -> Any:
    reduction = node.get("reduction", "none")
    if reduction not in _REDUCTIONS:
        raise node.broken(f"reduces by `{reduction}`")
    if not is_static(x, updates, *index):
        return getattr(jnp.asarray(x).at[index], _REDUCTIONS[reduction])(updates)
    found = x.copy()
    if reduction == "none":
        found[index] = updates
    else:
        _NUMPY[reduction].at(found, index, updates)
    return found


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    axis = axis_of(node, node.get("axis", 0), x.ndim)
    lib = xp(indices)
    grid = [
        indices
        if i == axis
        else lib.arange(n).reshape([-1 if j == i else 1 for j in range(x.ndim)])
        for i, n in enumerate(indices.shape)
    ]  # fmt: skip
    return _scatter(node, x, tuple(grid), updates)


@operator("ScatterND")
def scatter_nd(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    own = tuple(indices[..., i] for i in range(indices.shape[-1]))
    return _scatter(node, x, own, updates)


@operator("TensorScatter", since=24)
def tensor_scatter(node: Node, past: Any, update: Any, at: Any = None) -> Any:
    """Writes a cache: `update` from position ``at[batch]`` along an axis, or around its end."""
    axis = axis_of(node, node.get("axis", -2), past.ndim)
    most, count = past.shape[axis], update.shape[axis]
    start = jnp.zeros(past.shape[0], jnp.int32) if at is None else jnp.asarray(at)
    places = start[:, None] + jnp.arange(count)[None, :]
    if node.get("mode", "linear") == "circular":
        places = places % most
    lead = [1] * past.ndim
    lead[0], lead[axis] = past.shape[0], count
    return _put_along(past, places.reshape(lead), update, axis)


def _put_along(x: Any, places: Any, update: Any, axis: int) -> Any:
    grid = [
        places if i == axis else jnp.arange(n).reshape([-1 if j == i else 1 for j in range(x.ndim)])
        for i, n in enumerate(update.shape)
    ]
    return jnp.asarray(x).at[tuple(grid)].set(update)


# ------------------------------------------------------------------------------ images
@operator("DepthToSpace")
def depth_to_space(node: Node, x: Any) -> Any:
    b, c, h, w = x.shape
    n, lib = node.need("blocksize"), xp(x)
    if node.get("mode", "DCR") == "DCR":
        found = lib.reshape(x, (b, n, n, c // n**2, h, w)).transpose(0, 3, 4, 1, 5, 2)
    else:
        found = lib.reshape(x, (b, c // n**2, n, n, h, w)).transpose(0, 1, 4, 2, 5, 3)
    return found.reshape(b, c // n**2, h * n, w * n)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Any) -> Any:
    b, c, h, w = x.shape
    n = node.need("blocksize")
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    found = xp(x).reshape(x, (b, c, h // n, n, w // n, n)).transpose(order)
    return found.reshape(b, c * n**2, h // n, w // n)


@operator("ReverseSequence")
def reverse_sequence(node: Node, x: Any, lengths: Any) -> Any:
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)
    lead = [1] * x.ndim
    lead[batch] = -1
    lengths = jnp.asarray(lengths).reshape(lead)
    along = [1] * x.ndim
    along[time] = -1
    step = jnp.arange(x.shape[time]).reshape(along)
    return jnp.take_along_axis(
        jnp.asarray(x), jnp.where(step < lengths, lengths - 1 - step, step), axis=time
    )


# ---------------------------------------------- shapes that depend on values: numpy only
_KNOWN = "only of values that are known while tracing: its shape depends on them"


@operator("NonZero", static=(0,), notes=_KNOWN)
def non_zero(node: Node, x: Any) -> Any:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64).reshape(max(x.ndim, 1), -1)


@operator("Compress", static=(1,), notes="the condition must be known while tracing")
def compress(node: Node, x: Any, condition: Any) -> Any:
    axis = node.get("axis")
    chosen = np.flatnonzero(condition)
    if axis is None:
        return xp(x).reshape(x, -1)[chosen]
    return xp(x).take(x, chosen, axis_of(node, axis, x.ndim))


@operator("Unique", static=(0,), notes=_KNOWN)
def unique(node: Node, x: Any) -> Any:
    axis = node.get("axis")
    values, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not node.get("sorted", 1):
        order = np.argsort(first)
        back = np.argsort(order)
        values = np.take(values, order, 0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], back[inverse]
    return values, first, inverse, counts


@operator("Constant")
def constant(node: Node) -> Any:
    """One of its attributes, whichever it has."""
    kinds = {"value": None, "value_float": np.float32, "value_floats": np.float32,
             "value_int": np.int64, "value_ints": np.int64}  # fmt: skip
    for name, dtype in kinds.items():
        if name in node.attributes:
            return np.asarray(node.get(name), dtype)
    raise node.unsupported("a constant that is no tensor of numbers")
