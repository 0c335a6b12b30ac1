"""Following a named parameter through views: which source axes an axis is made of.

A *view* is a value that holds exactly a parameter's elements in another
arrangement: after transpose, reshape, cast, an added unit axis, or the slice that
`scan` takes of a stack. Each current axis is a tuple of `Atom`s, row-major;
an atom is a contiguous factor of one source axis.

Knows nothing of jaxprs or of quantization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bitnet_jax.quant.tensor import QuantTensor


@dataclass(frozen=True, order=True)
class Atom:
    """A factor of source axis `axis`: `size` steps of `stride` elements of that axis."""

    axis: int
    stride: int
    size: int

    @property
    def order(self) -> tuple[int, int]:
        """Sort key of the source's row-major order."""
        return (self.axis, -self.stride)


Axes = tuple[tuple[Atom, ...], ...]


def identity_axes(shape: Sequence[int]) -> Axes:
    """Each axis made of itself."""
    return tuple((Atom(axis, 1, size),) for axis, size in enumerate(shape))


def axis_size(atoms: Sequence[Atom]) -> int:
    """Size of an axis made of `atoms`."""
    return math.prod(atom.size for atom in atoms)


def reshape_axes(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Axes after a row-major reshape to `shape`, or None if an atom would have to tear."""
    queue = [atom for atoms in axes for atom in atoms if atom.size != 1]
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


def whole_axes(atoms: Sequence[Atom], shape: Sequence[int]) -> tuple[int, ...] | None:
    """The source axes that `atoms`, sorted to source order, make up whole; else None."""
    sizes: dict[int, int] = {}
    for atom in atoms:
        sizes[atom.axis] = sizes.get(atom.axis, 1) * atom.size
    if any(shape[axis] != size for axis, size in sizes.items()):
        return None
    return tuple(sorted(sizes))


@dataclass(frozen=True)
class ParamView:
    """A parameter, or the slice of one, on its way to a use.

    Attributes:
      name: the parameter's dotted path.
      shape: source shape, less the axes that scans have sliced away.
      origin: for each axis of `shape`, its number in the parameter itself.
      sliced: numbers (in the parameter) of the axes sliced away, outermost first.
      axes: what each current axis is made of, in terms of `shape`.
      casts: dtypes it was cast to on the way, in order. `value` is not cast: what is
        quantized is the parameter itself, as packing sees it.
      value: the float array in its current arrangement, or None (packed only).
      quant: the packed parameter, sliced like `shape`, or None.
    """

    name: str
    shape: tuple[int, ...]
    origin: tuple[int, ...]
    axes: Axes
    sliced: tuple[int, ...] = ()
    casts: tuple[Any, ...] = ()
    value: Any = None
    quant: QuantTensor | None = None

    @classmethod
    def of(
        cls,
        name: str,
        shape: Sequence[int],
        value: Any = None,
        quant: QuantTensor | None = None,
    ) -> ParamView:
        """The whole parameter, not yet moved."""
        shape = tuple(shape)
        return cls(
            name, shape, tuple(range(len(shape))), identity_axes(shape), value=value, quant=quant
        )

    @property
    def current_shape(self) -> tuple[int, ...]:
        """Shape of the value this view stands for."""
        return tuple(axis_size(atoms) for atoms in self.axes)

    @property
    def ndim(self) -> int:
        """Number of current axes."""
        return len(self.axes)

    def moved(self, axes: Axes, value: Any) -> ParamView:
        """The same elements in another arrangement."""
        return replace(self, axes=axes, value=value)

    def cast(self, dtype: Any) -> ParamView:
        """The same elements, to be cast where they are used as floats."""
        return replace(self, casts=(*self.casts, dtype))

    def array(self) -> Any:
        """The float array this view stands for, casts applied; None if there is only `quant`."""
        value = self.value
        if value is not None:
            for dtype in self.casts:
                value = value.astype(dtype)
        return value

    def leaves(self) -> list[Any]:
        """The arrays this view carries, to cross into a sub-jaxpr."""
        out = [] if self.value is None else [self.value]
        return out if self.quant is None else [*out, self.quant.codes, self.quant.scale]

    def with_leaves(self, leaves: Sequence[Any]) -> ParamView:
        """The same view over other arrays (inverse of `leaves`)."""
        rest = list(leaves)
        value = None if self.value is None else rest.pop(0)
        quant = self.quant
        if quant is not None:
            quant = replace(quant, codes=rest[0], scale=rest[1])
        return replace(self, value=value, quant=quant)

    def element(self) -> ParamView | None:
        """This view less its first current axis, which must be one whole source axis.

        Leaves are those of the stack still: `with_leaves` puts an element's in.
        None if the first axis is no whole source axis.
        """
        head = whole_axes(self.axes[0], self.shape)
        if head is None or len(head) != 1:
            return None
        gone = head[0]
        axes = tuple(
            tuple(replace(atom, axis=atom.axis - (atom.axis > gone)) for atom in atoms)
            for atoms in self.axes[1:]
        )
        quant = self.quant
        if quant is not None:
            if gone not in quant.stack_axes:
                return None
            quant = _drop_stack_axis(quant, gone)
        return replace(
            self,
            shape=_without(self.shape, gone),
            origin=_without(self.origin, gone),
            sliced=(*self.sliced, self.origin[gone]),
            axes=axes,
            quant=quant,
        )

    def stack_position(self) -> int:
        """Where the axis that `element` removes stands among the packed stack axes."""
        assert self.quant is not None
        return self.quant.stack_axes.index(self.axes[0][0].axis)


def _without(items: tuple[int, ...], index: int) -> tuple[int, ...]:
    return items[:index] + items[index + 1 :]


def _drop_stack_axis(quant: QuantTensor, axis: int) -> QuantTensor:
    def renumber(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a - (a > axis) for a in axes if a != axis)

    return replace(
        quant,
        shape=_without(quant.shape, axis),
        stack_axes=renumber(quant.stack_axes),
        out_axes=renumber(quant.out_axes),
        in_axes=renumber(quant.in_axes),
    )
