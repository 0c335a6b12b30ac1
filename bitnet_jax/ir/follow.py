"""The table that follows views: one row per primitive a parameter may pass through.

Rows that move a view give a view; rows of uses ask the mode; constructs with bodies
of their own stand in `constructs/`. A primitive with no row ends the journey: the
mode's `other` decides.

Knows nothing of quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.core import jax_compat
from bitnet_jax.ir import arrange
from bitnet_jax.ir.constructs.table import CONSTRUCTS
from bitnet_jax.ir.interpreter import Construct, Context, Rule, bind
from bitnet_jax.ir.joined import join
from bitnet_jax.ir.views import Axes, ParamView


def _move(context: Context, eqn: Any, view: ParamView, operands: Sequence[Any] = ()) -> Any:
    """The equation's float result for a view that carries a float value, else None."""
    return None if view.value is None else context.bind(eqn, [view.value, *operands])[0]


def _moving(axes_of: Callable[[ParamView, dict[str, Any]], Axes | None]) -> Rule:
    """A row for a one-operand primitive that rearranges a view."""

    def rule(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
        (view,) = values
        axes = axes_of(view, eqn.params)
        if axes is None:
            return context.bind(eqn, context.plain(eqn, values))
        return [view.moved(axes, _move(context, eqn, view))]

    return rule


def _transpose(view: ParamView, params: dict[str, Any]) -> Axes:
    return tuple(view.axes[axis] for axis in params["permutation"])


def _reshape(view: ParamView, params: dict[str, Any]) -> Axes | None:
    if params.get("dimensions") is not None:
        return None
    return arrange.reshape_axes(view.axes, params["new_sizes"])


def _squeeze(view: ParamView, params: dict[str, Any]) -> Axes:
    gone = {axis % view.ndim for axis in params["dimensions"]}
    return tuple(atoms for axis, atoms in enumerate(view.axes) if axis not in gone)


def _expand(view: ParamView, params: dict[str, Any]) -> Axes | None:
    return arrange.broadcast_axes(view, params["shape"], params["broadcast_dimensions"])


def _same(view: ParamView, params: dict[str, Any]) -> Axes:
    return view.axes


def _convert(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    (view,) = values
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return context.bind(eqn, context.plain(eqn, values))  # no view of a float parameter
    return [view.cast(eqn.params["new_dtype"])]


def _barrier(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Float values pass the barrier together; codes need none, they are no computation."""
    if context.abstract:
        return list(values)
    arrays = [v.value if isinstance(v, ParamView) else v for v in values]
    through = iter(lax.optimization_barrier([a for a in arrays if a is not None]))
    out = [None if a is None else next(through) for a in arrays]
    return [
        replace(v, value=a) if isinstance(v, ParamView) else a
        for v, a in zip(values, out, strict=True)
    ]


def _device_put(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """One array is moved; of several at once, each would have its own place in the parameters."""
    if len(values) == 1:
        return _moving(_same)(context, eqn, values)
    return context.bind(eqn, context.plain(eqn, values))


def _note(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """What a recipe asks of a weight goes with it; its arrays are sliced as it is."""
    view, *arrays = values
    note = eqn.params["note"]
    if not isinstance(view, ParamView):
        return context.bind(eqn, context.plain(eqn, values))
    arrays = context.plain(eqn, arrays)
    if view.value is not None:
        # A companion is for the whole parameter, on every device: a product sees parts of it.
        whole = jax_compat.replicated(jax_compat.explicit_sharding(jax.typeof(view.value)))
        found = jax_compat.in_auto_axes(note.companions, whole)(view.value, arrays)
        for name, array in found.items():
            view = view.joined(name, array)
    return [replace(view, notes=(*view.notes, note))]


def _all_gather(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """A weight that is stored in parts is put together for its product (FSDP)."""
    (view,) = values
    params = eqn.params
    names = params["axis_name"]
    names = names if isinstance(names, tuple) else (names,)
    whole = None
    if params["tiled"] and params["axis_index_groups"] is None:

        def gather(array: Any, axis: int) -> Any:
            return bind(eqn, [array], all_gather_dimension=axis)[0]

        value = _move(context, eqn, view)
        whole = arrange.unsharded(
            view, params["all_gather_dimension"], names, params["axis_size"], gather, value
        )
    if whole is None:
        return context.bind(eqn, context.plain(eqn, values))
    return [whole]


# ------------------------------------------------------------------- slices and elements
def _block(
    context: Context, view: ParamView, axis: int, start: int, size: int, value: Any, step: int = 1
) -> Any:
    """Part of a current axis: an element where it is stacked matrices, else a window."""
    if size == 1 and len(view.shape) > 2:
        chosen = arrange.element(
            view, axis, lambda a, at: lax.index_in_dim(a, start, at, keepdims=False), value,
            keep=True,
        )  # fmt: skip
        if chosen is not None:
            return chosen
    return arrange.window(context.mode.settle(view), axis, start, size, value, step)


def _slice(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    (view,) = values
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    sizes = eqn.outvars[0].aval.shape
    out: Any = view
    for axis, full in enumerate(view.current_shape):
        cut = (starts[axis], limits[axis], strides[axis])
        if out is not None and cut != (0, full, 1):
            # One axis at a time: a window on what is left of a stack settles that first.
            value = None if out.value is None else lax.slice_in_dim(out.value, *cut, axis)
            out = _block(context, out, axis, cut[0], sizes[axis], value, cut[2])
    if out is None:
        return context.bind(eqn, context.plain(eqn, values))
    return [out]


def _split(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    (view,) = values
    axis, start, out = eqn.params["axis"], 0, []
    parts = [None] * len(eqn.outvars)
    if view.value is not None:
        parts = context.bind(eqn, [view.value])
    for size, part in zip(eqn.params["sizes"], parts, strict=True):
        out.append(_block(context, view, axis, start, int(size), part))
        start += int(size)
    if any(part is None for part in out):
        return context.bind(eqn, context.plain(eqn, values))
    return out


def _unstack(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    (view,) = values
    axis = eqn.params["axis"]
    parts = [None] * len(eqn.outvars) if view.value is None else context.bind(eqn, [view.value])
    out = []
    for at, part in enumerate(parts):
        block = _block(context, view, axis, at, 1, None)
        if block is None:
            return context.bind(eqn, context.plain(eqn, values))
        axes = (*block.axes[:axis], *block.axes[axis + 1 :])
        out.append(replace(block, axes=axes, value=part))
    return out


def _dynamic_slice(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    view, *starts = values
    sizes = eqn.params["slice_sizes"]
    if not isinstance(view, ParamView) or any(isinstance(s, ParamView) for s in starts):
        return context.bind(eqn, context.plain(eqn, values))
    cut = [i for i, size in enumerate(view.current_shape) if sizes[i] != size]
    if not cut:
        return [view]
    if sum(size > 1 for size in sizes) < 2:
        return [context.mode.gather(context, eqn, view, starts)]
    if len(cut) == 1:
        (axis,) = cut

        def take(array: Any, at: int) -> Any:
            return lax.dynamic_index_in_dim(array, starts[axis], at, keepdims=False)

        value = _move(context, eqn, view, starts)
        chosen = None
        if sizes[axis] == 1 and len(view.shape) > 2:
            chosen = arrange.element(view, axis, take, value, keep=True)
        if chosen is None:
            settled = context.mode.settle(view)
            chosen = arrange.window(settled, axis, starts[axis], sizes[axis], value)
        if chosen is not None:
            return [chosen]
    return context.bind(eqn, context.plain(eqn, values))


def _gather(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    view, indices = values
    if isinstance(indices, ParamView) or not isinstance(view, ParamView):
        return context.bind(eqn, context.plain(eqn, values))
    sizes, numbers = eqn.params["slice_sizes"], eqn.params["dimension_numbers"]
    # Rows of a table are looked up; whole matrices are chosen to be multiplied.
    if sum(size > 1 for size in sizes) < 2:
        return [context.mode.gather(context, eqn, view, [indices])]
    cut = [i for i, size in enumerate(view.current_shape) if sizes[i] != size]
    one = len(cut) == 1 and sizes[cut[0]] == 1 and not numbers.operand_batching_dims
    picked = _pick(context, eqn, view, indices, cut[0]) if one else None
    if picked is None:
        return context.bind(eqn, context.plain(eqn, values))
    return [picked]


def _pick(context: Context, eqn: Any, view: ParamView, indices: Any, axis: int) -> Any:
    """Whole matrices chosen along `axis` by an array of indices (experts of each token)."""
    numbers = eqn.params["dimension_numbers"]
    batch = indices.shape[:-1]
    column = numbers.start_index_map.index(axis)
    left = iter(i for i in range(view.ndim) if i not in numbers.collapsed_slice_dims)
    places = [
        next(left) if place in numbers.offset_dims else None
        for place in range(len(eqn.outvars[0].aval.shape))
    ]
    # Out of range, a float lookup is filled with NaN, or with 0: then the scale is.
    mode, fill = jax_compat.out_of_range(eqn)
    if fill not in (None, 0):
        return None

    def take(array: Any, at: int) -> Any:
        chosen = indices[..., column].reshape(-1)
        if jnp.issubdtype(array.dtype, jnp.floating):
            return jnp.take(array, chosen, axis=at, mode=mode, fill_value=fill)
        return jnp.take(array, chosen, axis=at, mode=mode)

    value = _move(context, eqn, view, [indices])
    return arrange.pick(view, axis, take, places, batch, value)


# ---------------------------------------------------------------------------------- uses
def _dot_general(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    views = [v for v in values if isinstance(v, ParamView)]
    if len(views) == 2:
        # A table that the function closes over may be what a weight is multiplied by.
        tables = [index for index, view in enumerate(views) if view.constant]
        if not tables:
            return context.bind(eqn, context.plain(eqn, values))
        values = list(values)
        values[tables[0]] = context.mode.keep(context, eqn, views[tables[0]])
    lhs, rhs = values
    side = int(isinstance(rhs, ParamView))
    view, other = (rhs, lhs) if side else (lhs, rhs)
    return [context.mode.dot(context, eqn, view, side, other)]


def _ragged_dot(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    x, view, sizes = values[:3]
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    plain_dims = numbers.dot_dimension_numbers == (((1,), (1,)), ((), ()))
    form = (tuple(numbers.lhs_ragged_dimensions), tuple(numbers.rhs_group_dimensions))
    known = plain_dims and form == ((0,), (0,)) and eqn.params["group_offset"] is None
    alone = isinstance(view, ParamView) and not any(isinstance(v, ParamView) for v in (x, sizes))
    if not (known and alone and view.ndim == 3):
        return context.bind(eqn, context.plain(eqn, values))
    return [context.mode.ragged(context, eqn, view, x, sizes)]


def _convolution(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    floats = [
        context.mode.convolution(context, eqn, v) if isinstance(v, ParamView) else v for v in values
    ]
    return context.bind(eqn, floats)


def _shift(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """A bias or a gain meets something wider than itself, or was given unit axes to do so.

    That is no hidden product; a mask on a weight, or a delta added to one, may be.
    """
    views = [value for value in values if isinstance(value, ParamView)]
    if len(views) == 1:
        (view,) = views
        other = next(value for value in values if value is not view)
        if is_wider(view, getattr(other, "shape", ())):
            kept = context.mode.keep(context, eqn, view)
            return context.bind(eqn, [kept if value is view else value for value in values])
    return context.bind(eqn, context.plain(eqn, values))


def is_wider(view: ParamView, sizes: Sequence[int]) -> bool:
    """True if an array of `sizes` makes more of `view`, or `view` has unit axes added for it."""
    more = any(a > b for a, b in zip(sizes, view.current_shape, strict=False))
    return more or view.ndim > len(view.shape)


def _shown(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """A callback looks at a parameter: it sees the floats, and no product hides there."""
    seen = [context.mode.keep(context, eqn, v) if isinstance(v, ParamView) else v for v in values]
    return context.bind(eqn, seen)


FOLLOW: dict[str, Rule | Construct] = {
    # moves
    "transpose": _moving(_transpose),
    "reshape": _moving(_reshape),
    "squeeze": _moving(_squeeze),
    "broadcast_in_dim": _moving(_expand),
    "convert_element_type": _convert,
    "copy": _moving(_same),
    "copy_p": _moving(_same),
    "name": _moving(_same),
    "stop_gradient": _moving(_same),
    "sharding_constraint": _moving(_same),
    "reshard": _moving(_same),
    "pvary": _moving(_same),
    "device_put": _device_put,
    "optimization_barrier": _barrier,
    "weight_note": _note,
    "all_gather": _all_gather,
    # parts
    "concatenate": join,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    # uses
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
    "add": _shift,
    "sub": _shift,
    "mul": _shift,
    "debug_callback": _shown,
    "debug_print": _shown,
    "io_callback": _shown,
    **CONSTRUCTS,
}
