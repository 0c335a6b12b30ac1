"""Following a named parameter through views: which source axes an axis is made of.

A *view* is a value that holds a parameter's elements, or a block of them, in another
arrangement: after transpose, reshape, cast, an added unit axis, a slice, the element
that `scan` or an index takes of a stack, the shard that a device holds. Each current
axis is a tuple of `Atom`s, row-major; an atom is a contiguous factor of one
source axis. `arrange.py` says what each move does to a view.

Knows nothing of jaxprs or of quantization; a view only carries the scale and the
codes along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


def whole_axes(atoms: Sequence[Atom], shape: Sequence[int]) -> tuple[int, ...] | None:
    """The source axes that `atoms`, sorted to source order, make up whole; else None."""
    sizes: dict[int, int] = {}
    for atom in atoms:
        sizes[atom.axis] = sizes.get(atom.axis, 1) * atom.size
    if any(shape[axis] != size for axis, size in sizes.items()):
        return None
    return tuple(sorted(sizes))


@dataclass(frozen=True)
class Window:
    """The block of a source axis that a slice left.

    Attributes:
      start: its first element; None if it is traced: then it is the companion `moving`.
      step: distance of its elements.
      full: size of the whole axis.
    """

    start: int | None
    step: int
    full: int
    moving: str = ""


@dataclass(frozen=True)
class Remnant:
    """What is left of a parameter in an array made of it (`passes/hidden.py`).

    Attributes:
      own: axes of that array along which the parameter varies.
      free: those of them along which what the parameter was multiplied by does not.
    """

    own: tuple[int, ...]
    free: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParamView:
    """A parameter, or a block of one, on its way to a use.

    Attributes:
      name: the parameter's dotted path.
      shape: source shape, less the axes that were sliced away.
      origin: for each axis of `shape`, its number in the parameter itself.
      axes: what each current axis is made of, in terms of `shape`.
      sliced: numbers (in the parameter) of the axes sliced away, outermost first.
      picked: numbers (in the parameter) of axes whose elements an index chose; they
        stand in `shape` still, as long as the index.
      windows: for each axis of `shape`, the block of it that is left, or None.
      shards: for each axis of `shape`, the mesh axes that a `shard_map` splits it over.
      casts: dtypes it was cast to on the way, in order. `value` is not cast: what is
        quantized is the parameter itself, as packing sees it.
      notes: what recipes ask of this weight, in the order met (`ops/weight_note`).
      value: the float array in its current arrangement, or None (packed, abstract).
      companions: named arrays that belong to the parameter, with an axis for each of
        `shape`, of size 1 where they do not vary; they are sliced and sharded with it.
        ``scale`` is that of the whole parameter, settled before a slice hid the rest.
      quants: the packed parameter in each layout that the function needs.
      constant: no parameter, but an array that the function closes over.
      remnant: no parameter, but an array made of one, whose axes `shape` and `origin` count.
    """

    name: str
    shape: tuple[int, ...]
    origin: tuple[int, ...]
    axes: Axes
    sliced: tuple[int, ...] = ()
    picked: tuple[int, ...] = ()
    windows: tuple[Window | None, ...] = ()
    shards: tuple[tuple[str, ...], ...] = ()
    casts: tuple[Any, ...] = ()
    notes: tuple[Any, ...] = ()
    value: Any = None
    companions: tuple[tuple[str, Any], ...] = ()
    quants: tuple[QuantTensor, ...] = ()
    constant: bool = False
    remnant: Remnant | None = None

    @classmethod
    def of(
        cls,
        name: str,
        shape: Sequence[int],
        value: Any = None,
        quants: Sequence[QuantTensor] = (),
    ) -> ParamView:
        """The whole parameter, not yet moved."""
        shape = tuple(shape)
        return cls(
            name,
            shape,
            tuple(range(len(shape))),
            identity_axes(shape),
            windows=(None,) * len(shape),
            shards=((),) * len(shape),
            value=value,
            quants=tuple(quants),
        )

    @property
    def current_shape(self) -> tuple[int, ...]:
        """Shape of the value this view stands for."""
        return tuple(axis_size(atoms) for atoms in self.axes)

    @property
    def ndim(self) -> int:
        """Number of current axes."""
        return len(self.axes)

    @property
    def stacked(self) -> tuple[int, ...]:
        """Axes of the parameter that are certainly stacked: an index or a scan chose of them."""
        return tuple(sorted({*self.sliced, *self.picked}))

    def companion(self, name: str) -> Any:
        """The companion array called `name`, or None."""
        return dict(self.companions).get(name)

    def joined(self, name: str, array: Any) -> ParamView:
        """The same view with one more companion."""
        return replace(self, companions=(*self.companions, (name, array)))

    def map_companions(self, change: Callable[[Any], Any]) -> tuple[tuple[str, Any], ...]:
        """The companions after a move."""
        return tuple((name, change(array)) for name, array in self.companions)

    def moved(self, axes: Axes, value: Any) -> ParamView:
        """The same elements in another arrangement."""
        return replace(self, axes=axes, value=value)

    def cast(self, dtype: Any) -> ParamView:
        """The same elements, to be cast where they are used as floats."""
        return replace(self, casts=(*self.casts, dtype))

    def array(self) -> Any:
        """The float array this view stands for, casts applied; None if it carries none."""
        return None if self.value is None else self.apply_casts(self.value)

    def apply_casts(self, value: Any) -> Any:
        """`value` cast as this view is."""
        for dtype in self.casts:
            value = value.astype(dtype)
        return value

    def leaves(self) -> list[Any]:
        """The arrays this view carries, to cross into a sub-jaxpr."""
        packed = [leaf for quant in self.quants for leaf in (quant.codes, quant.scale)]
        own = [] if self.value is None else [self.value]
        return [*own, *(array for _, array in self.companions), *packed]

    def with_leaves(self, leaves: Sequence[Any]) -> ParamView:
        """The same view over other arrays (inverse of `leaves`)."""
        rest = iter(leaves)
        value = None if self.value is None else next(rest)
        companions = tuple((name, next(rest)) for name, _ in self.companions)
        quants = tuple(replace(q, codes=next(rest), scale=next(rest)) for q in self.quants)
        return replace(self, value=value, companions=companions, quants=quants)
