"""What a move does to a view: reshape, slice, the element of a stack, a device's shard.

Each function takes a `ParamView` and gives the view after the move, or None where the
result is no view (its elements are no block of the parameter). They follow the
scale and the codes too. Knows nothing of jaxprs: `follow.py` calls these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import lax

from bitnet_jax.ir.views import Atom, Axes, ParamView, Window, axis_size, whole_axes
from bitnet_jax.quant.tensor import QuantTensor

# The element of an array along an axis, the axis gone: how depends on the index.
Take = Callable[[Any, int], Any]


def reshape_axes(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Axes after a row-major reshape to `shape`, or None if an atom would have to tear."""
    queue = [atom for atoms in axes for atom in atoms if atom.size != 1]
    if any(atom.size == 0 for atom in queue):
        # No element says what went where: only unit axes may come and go.
        same = [atom.size for atom in queue] == [size for size in shape if size != 1]
        return tuple(() if size == 1 else (queue.pop(0),) for size in shape) if same else None
    out: list[tuple[Atom, ...]] = []
    for wanted in shape:
        taken: list[Atom] = []
        while wanted > 1:
            if not queue:
                return None
            atom = queue.pop(0)
            if wanted % atom.size == 0:
                taken.append(atom)
                wanted //= atom.size
            elif atom.size % wanted == 0:
                rest = atom.size // wanted
                taken.append(Atom(atom.axis, atom.stride * rest, wanted))
                queue.insert(0, Atom(atom.axis, atom.stride, rest))
                wanted = 1
            else:
                return None
        out.append(tuple(taken))
    return tuple(out) if not queue else None


def element(view: ParamView, axis: int, take: Take, value: Any, *, keep: bool) -> ParamView | None:
    """One element along current axis `axis`, which must be one whole source axis.

    Args:
      take: gives the element of an array (a scale, codes) along an axis, the axis gone.
      value: the float array after the move.
      keep: the current axis stays, of size 1.
    """
    head = whole_axes(view.axes[axis], view.shape)
    if head is None or len(head) != 1:
        return None
    gone = head[0]
    if any(gone not in quant.stack_axes for quant in view.quants):
        return None
    rest = [
        tuple(replace(atom, axis=atom.axis - (atom.axis > gone)) for atom in atoms)
        for atoms in view.axes
    ]
    rest[axis : axis + 1] = [()] if keep else []
    return replace(
        view,
        shape=_without(view.shape, gone),
        origin=_without(view.origin, gone),
        windows=_without(view.windows, gone),
        shards=_without(view.shards, gone),
        sliced=(*view.sliced, view.origin[gone]),
        axes=tuple(rest),
        value=value,
        companions=view.map_companions(lambda array: _take_along(array, gone, take)),
        quants=tuple(_quant_element(quant, gone, take) for quant in view.quants),
    )


def part(view: ParamView) -> ParamView | None:
    """A contiguous part of a stack, where the first current axis counts such parts.

    Leaves are those of the whole still. None unless the axis is the major factor of a
    stacked axis: a parameter of at least three axes.
    """
    if len(view.axes[0]) != 1 or len(view.shape) < 3:
        return None
    (atom,) = view.axes[0]
    source = atom.axis
    if atom.stride * atom.size != view.shape[source] or atom.stride == 1:
        return None
    quants = []
    for quant in view.quants:
        if source not in quant.stack_axes:
            return None
        quants.append(replace(quant, shape=_with(quant.shape, source, atom.stride)))
    return replace(
        view,
        shape=_with(view.shape, source, atom.stride),
        picked=(*view.picked, view.origin[source]),
        windows=_with(view.windows, source, None),
        axes=view.axes[1:],
        quants=tuple(quants),
    )


def _take_along(array: Any, axis: int, take: Take) -> Any:
    """A companion has size 1 along axes where it does not vary."""
    return jnp.squeeze(array, axis) if array.shape[axis] == 1 else take(array, axis)


def _quant_element(quant: QuantTensor, axis: int, take: Take) -> QuantTensor:
    def renumber(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a - (a > axis) for a in axes if a != axis)

    position = quant.stack_axes.index(axis)
    return replace(
        quant,
        codes=take(quant.codes, position),
        scale=take(quant.scale, position),
        shape=_without(quant.shape, axis),
        stack_axes=renumber(quant.stack_axes),
        out_axes=renumber(quant.out_axes),
        in_axes=renumber(quant.in_axes),
    )


def pick(
    view: ParamView, axis: int, take: Take, places: Sequence[int | None], sizes: Sequence[int],
    value: Any,
) -> ParamView | None:  # fmt: skip
    """Elements of a whole source axis chosen by an array of indices.

    Args:
      axis: the current axis that is indexed.
      take: the chosen elements of an array along an axis, which stays, as long as the index.
      places: for each axis of the result, the current axis it was, or None for an axis of
        the index.
      sizes: the index's shape.
    """
    head = whole_axes(view.axes[axis], view.shape)
    if head is None or len(head) != 1:
        return None
    (chosen,) = head
    if any(chosen not in quant.stack_axes for quant in view.quants):
        return None
    count = math.prod(sizes)
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    index_atoms = iter(Atom(chosen, s, n) for s, n in zip(strides, sizes, strict=True))
    axes = tuple(
        (next(index_atoms),) if place is None else () if place == axis else view.axes[place]
        for place in places
    )
    axes = tuple(tuple(atom for atom in atoms if atom.size != 1) for atoms in axes)
    shape = _with(view.shape, chosen, count)
    return replace(
        view,
        shape=shape,
        axes=axes,
        picked=(*view.picked, view.origin[chosen]),
        windows=_with(view.windows, chosen, None),
        shards=_with(view.shards, chosen, ()),
        value=value,
        companions=view.map_companions(
            lambda array: array if array.shape[chosen] == 1 else take(array, chosen)
        ),
        quants=tuple(_quant_picked(quant, chosen, count, take) for quant in view.quants),
    )


def _quant_picked(quant: QuantTensor, axis: int, count: int, take: Take) -> QuantTensor:
    position = quant.stack_axes.index(axis)
    return replace(
        quant,
        codes=take(quant.codes, position),
        scale=take(quant.scale, position),
        shape=_with(quant.shape, axis, count),
    )


def window(
    view: ParamView, axis: int, start: Any, size: int, value: Any, step: int = 1
) -> ParamView | None:
    """A block of current axis `axis`: `size` elements from `start` (which may be traced) on.

    Of stacked axes the codes are sliced here; of others they stay whole until they are used.
    """
    atoms = [atom for atom in view.axes[axis] if atom.size != 1]
    if len(atoms) != 1:
        return None
    (atom,) = atoms
    source, before = atom.axis, view.windows[atom.axis]
    if atom.stride * atom.size != view.shape[source] or view.shards[source]:
        return None  # not the major factor: the block is no contiguous part of the axis
    fixed = isinstance(start, int)
    if (step != 1 and atom.stride != 1) or (before is not None and (not fixed or before.moving)):
        return None
    moving = "" if fixed else f"start of axis {view.origin[source]}"
    kept = Window(start * atom.stride if fixed else None, step, view.shape[source], moving)
    if before is not None:
        first = before.start + before.step * start * atom.stride
        kept = Window(first, before.step * step, before.full)
    count = size * atom.stride

    def block(array: Any, at: int = source) -> Any:
        if array.shape[at] == 1:
            return array
        if not fixed:
            return lax.dynamic_slice_in_dim(array, start * atom.stride, count, axis=at)
        low = start * atom.stride
        return lax.slice_in_dim(array, low, low + (count - 1) * step + 1, step, axis=at)

    companions = view.map_companions(block)
    if moving and (view.value is not None or view.quants):
        clamped = jnp.clip(start, 0, atom.size - size) * atom.stride
        companions += ((moving, jnp.reshape(clamped, (1,) * len(view.shape))),)
    cut = (replace(atom, size=size),) if size != 1 else ()
    return replace(
        view,
        shape=_with(view.shape, source, count),
        windows=_with(view.windows, source, kept),
        axes=_with(view.axes, axis, cut),
        value=value,
        companions=companions,
        quants=tuple(_quant_block(quant, source, count, block) for quant in view.quants),
    )


def _quant_block(
    quant: QuantTensor, axis: int, count: int, block: Callable[[Any, int], Any]
) -> QuantTensor:
    if axis not in quant.stack_axes:
        return quant
    at = quant.stack_axes.index(axis)
    return replace(
        quant,
        codes=block(quant.codes, at),
        scale=block(quant.scale, at),
        shape=_with(quant.shape, axis, count),
    )


def shard(view: ParamView, axis: int, names: tuple[str, ...], count: int) -> ParamView | None:
    """The part that one of `count` devices holds when current axis `axis` is split over `names`.

    Leaves stay those of the whole: `with_leaves` puts the device's own in. None if a
    part is no contiguous block of a source axis, or no whole number of packed blocks.
    """
    atoms = [atom for atom in view.axes[axis] if atom.size != 1]
    if not atoms:
        return None
    first = atoms[0]
    source = first.axis
    if first.size % count or view.windows[source] is not None:
        return None
    if first.stride * first.size != view.shape[source]:
        return None
    cut = replace(first, size=first.size // count)
    if view.shape[source] == count and len(view.shape) > 2:
        return None  # one element: nothing says any more that it is one of a stack
    quants = [_quant_shard(quant, source, count) for quant in view.quants]
    if any(quant is None for quant in quants):
        return None
    return replace(
        view,
        shape=_with(view.shape, source, view.shape[source] // count),
        axes=_with(view.axes, axis, (*([cut] if cut.size != 1 else []), *atoms[1:])),
        shards=_with(view.shards, source, (*view.shards[source], *names)),
        quants=tuple(quant for quant in quants if quant is not None),
    )


def unsharded(
    view: ParamView, axis: int, names: tuple[str, ...], count: int, gather: Take, value: Any
) -> ParamView | None:
    """Inverse of `shard`: every device has the whole of current axis `axis` again.

    Args:
      gather: gathers an array along an axis, the parts one after another.
    """
    atoms = [atom for atom in view.axes[axis] if atom.size != 1]
    held = [a for a, own in enumerate(view.shards) if own and own[-len(names) :] == names]
    if len(held) != 1 or (atoms and atoms[0].axis != held[0]):
        return None
    (source,) = held
    # A part of size 1 has left no atom: then it is one step of what was split.
    first = atoms[0] if atoms else Atom(source, view.shape[source], 1)
    if first.stride * first.size != view.shape[source]:
        return None
    whole = replace(first, size=first.size * count)
    return replace(
        view,
        shape=_with(view.shape, source, view.shape[source] * count),
        axes=_with(view.axes, axis, (whole, *atoms[1:])),
        shards=_with(view.shards, source, view.shards[source][: -len(names)]),
        value=value,
        companions=view.map_companions(
            lambda array: array if array.shape[source] == 1 else gather(array, source)
        ),
        quants=tuple(_quant_gathered(quant, source, count, gather) for quant in view.quants),
    )


def _quant_gathered(quant: QuantTensor, axis: int, count: int, gather: Take) -> QuantTensor:
    rows = len(quant.stack_axes)
    places = {a: i for i, a in enumerate(quant.stack_axes)}
    places |= dict.fromkeys(quant.out_axes, rows) | dict.fromkeys(quant.in_axes, rows + 1)
    place = places[axis]
    varies = place < quant.scale.ndim
    return replace(
        quant,
        codes=gather(quant.codes, place),
        scale=gather(quant.scale, place) if varies else quant.scale,
        shape=_with(quant.shape, axis, quant.shape[axis] * count),
    )


def _quant_shard(quant: QuantTensor, axis: int, count: int) -> QuantTensor | None:
    """`quant` as one device sees it; None if its blocks would tear."""
    for role, block in ((quant.out_axes, 16), (quant.in_axes, max(16, quant.group_size))):
        # Only the major axis of a role splits the canonical matrix into whole rows or columns.
        if axis in role and (
            axis != role[0] or math.prod(quant.shape[a] for a in role) % (count * block)
        ):
            return None
    return replace(quant, shape=_with(quant.shape, axis, quant.shape[axis] // count))


def broadcast_axes(view: ParamView, shape: Sequence[int], places: Sequence[int]) -> Axes | None:
    """Axes after a broadcast that only adds unit axes; None if it repeats elements."""
    new: list[tuple[Atom, ...]] = [()] * len(shape)
    for place, atoms in zip(places, view.axes, strict=True):
        new[place] = atoms
    return tuple(new) if tuple(axis_size(atoms) for atoms in new) == tuple(shape) else None


def _without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])
