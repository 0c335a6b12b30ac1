"""The geometry of a product with a parameter: to canonical matrices and back.

Any such product is, up to rearranging axes,

    [*stack, tokens, in] by [*stack, out, in]  ->  [*stack, tokens, out]

where the parameter's axes stand in their source order: so the same weight gives the
same matrix, codes and digest however it is stored and used. Axes are tracked by their
atoms (`ir/views.py`): an array is split into one axis per atom, transposed by name
and merged. Knows nothing of quantization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bitnet_jax.ir.views import Atom, ParamView, axis_size, whole_axes


@dataclass(frozen=True)
class Roles:
    """What each axis of a view's `shape` is in the canonical matrix [*stack, out, in].

    Invariant: every axis has one role; within a role axes stand in source order.
    """

    stack: tuple[int, ...]
    out: tuple[int, ...]
    inner: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """All axes, as the canonical matrix has them."""
        return (*self.stack, *self.out, *self.inner)


def canonical_matrix(view: ParamView, roles: Roles) -> Any:
    """A view's float value as [*stack, out, in]."""
    atoms = [atom for atoms in view.axes for atom in atoms]
    split = view.value.reshape([atom.size for atom in atoms])
    wanted = [
        atom for axis in roles.order for atom in sorted(atoms, key=_order) if atom.axis == axis
    ]
    shape = view.shape
    lead = [shape[axis] for axis in roles.stack]
    out = math.prod(shape[axis] for axis in roles.out)
    inner = math.prod(shape[axis] for axis in roles.inner)
    return jnp.transpose(split, [atoms.index(atom) for atom in wanted]).reshape(*lead, out, inner)


def source_scale(scale: Any, view: ParamView, roles: Roles, scale_kind: str) -> Any:
    """A canonical scale with one axis per axis of `view.shape`, 1 where it does not vary."""
    axes = (*roles.stack, *(roles.out if scale_kind == "row" else ()))
    varying = scale.reshape([view.shape[axis] for axis in axes])
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    shape = [view.shape[axis] if axis in axes else 1 for axis in range(len(view.shape))]
    return jnp.transpose(varying, order).reshape(shape)


def arranged_scale(scale: Any, view: ParamView) -> Any:
    """A `source_scale` in the view's current arrangement: it broadcasts against the value."""
    atoms = sorted((atom for atoms in view.axes for atom in atoms), key=_order)
    sizes = [1 if scale.shape[atom.axis] == 1 else atom.size for atom in atoms]
    split = scale.reshape(sizes)
    current = [atom for atoms in view.axes for atom in atoms]
    split = jnp.transpose(split, [atoms.index(atom) for atom in current])
    shape, full = [], []
    at = 0
    for group in view.axes:
        varies = any(split.shape[at + i] != 1 for i in range(len(group)))
        full += [atom.size if varies else 1 for atom in group]
        shape.append(axis_size(group) if varies else 1)
        at += len(group)
    return jnp.broadcast_to(split, full).reshape(shape)


@dataclass(frozen=True)
class DotGeometry:
    """How one `dot_general` with a view maps to canonical matrices.

    Attributes:
      side: which operand the view is; the other is called x.
      contract_x, batch_x, contract_w, batch_w: the equation's dimension numbers.
      roles: of the axes of `view.shape`; a stacked axis may be one that the dot does not
        batch over: then every element of it meets the same x.
    """

    view: ParamView
    side: int
    contract_x: tuple[int, ...]
    batch_x: tuple[int, ...]
    contract_w: tuple[int, ...]
    batch_w: tuple[int, ...]
    roles: Roles

    @property
    def free_w(self) -> list[int]:
        """The view's axes that the output keeps."""
        used = {*self.contract_w, *self.batch_w}
        return [axis for axis in range(self.view.ndim) if axis not in used]

    def free_x(self, ndim: int) -> list[int]:
        """x's axes that the output keeps."""
        used = {*self.contract_x, *self.batch_x}
        return [axis for axis in range(ndim) if axis not in used]

    def inner_last(self, x: Any) -> Any:
        """x as [*batch and free axes in x's order, in], the inputs in canonical order."""
        kept = [axis for axis in range(x.ndim) if axis not in self.contract_x]
        shape = [x.shape[axis] for axis in kept]
        contract = self._atoms(self.contract_w)
        x = jnp.transpose(x, (*kept, *self.contract_x))
        x = x.reshape(*shape, *(atom.size for atom in contract))
        order = sorted(range(len(contract)), key=lambda i: contract[i].order)
        x = jnp.transpose(x, (*range(len(kept)), *(len(kept) + i for i in order)))
        return x.reshape(*shape, math.prod(atom.size for atom in contract))

    def inner_back(self, x: Any, shape: Sequence[int]) -> Any:
        """What `inner_last` made, as x of `shape` again."""
        kept = [axis for axis in range(len(shape)) if axis not in self.contract_x]
        contract = self._atoms(self.contract_w)
        ordered = sorted(contract, key=_order)
        split = x.reshape(*(shape[axis] for axis in kept), *(atom.size for atom in ordered))
        order = [len(kept) + ordered.index(atom) for atom in contract]
        split = jnp.transpose(split, (*range(len(kept)), *order))
        split = split.reshape(*(shape[axis] for axis in (*kept, *self.contract_x)))
        places = (*kept, *self.contract_x)
        return jnp.transpose(split, [places.index(axis) for axis in range(len(shape))])

    def to_x(self, arranged: Any, ndim: int) -> Any:
        """An array in the view's arrangement, 1 along the axes it keeps, against x."""
        free = self.free_w
        moved = jnp.transpose(arranged, (*self.batch_w, *self.contract_w, *free))
        sizes = dict(zip((*self.batch_x, *self.contract_x), moved.shape, strict=False))
        order = sorted((*self.batch_x, *self.contract_x))
        places = (*self.batch_x, *self.contract_x)
        flat = moved.reshape(moved.shape[: len(places)])
        flat = jnp.transpose(flat, [places.index(axis) for axis in order])
        return flat.reshape([sizes.get(axis, 1) for axis in range(ndim)])

    def token_output(self, a: Any) -> Any:
        """A value per token, 1 along contracted axes, so that it broadcasts against the output."""
        return self._output(a, self.batch_x, self.contract_x, 1 - self.side, len(self.free_w))

    def weight_output(self, scale: Any, free_x: int) -> Any:
        """An `arranged_scale`, so that it broadcasts against the output."""
        return self._output(scale, self.batch_w, self.contract_w, self.side, free_x)

    def _output(
        self, value: Any, batch: Sequence[int], contract: Sequence[int], side: int, others: int
    ) -> Any:
        free = [axis for axis in range(value.ndim) if axis not in (*batch, *contract)]
        value = jnp.transpose(value, (*batch, *free, *contract))
        lead, own = value.shape[: len(batch)], value.shape[len(batch) : len(batch) + len(free)]
        ones = (1,) * others
        return value.reshape(*lead, *((*ones, *own) if side else (*own, *ones)))

    def activation_matrix(self, x: Any) -> Any:
        """x as [*stack, tokens, in]; repeated along stacked axes that the dot keeps apart."""
        kept = [axis for axis in range(x.ndim) if axis not in self.contract_x]
        x = self.inner_last(x)
        batch = [kept.index(axis) for axis in self.batch_x]
        free = [i for i in range(len(kept)) if i not in batch]
        tokens = math.prod(x.shape[i] for i in free)
        x = jnp.transpose(x, (*batch, *free, x.ndim - 1))
        atoms = self._atoms(self.batch_w)
        x = x.reshape(*(atom.size for atom in atoms), tokens, x.shape[-1])
        stacked = self._stacked_atoms()
        by_source = [atom for atom in stacked if atom in atoms]
        order = [atoms.index(atom) for atom in by_source]
        x = jnp.transpose(x, (*order, len(atoms), len(atoms) + 1))
        x = x.reshape(*(atom.size if atom in atoms else 1 for atom in stacked), *x.shape[-2:])
        x = jnp.broadcast_to(x, (*(atom.size for atom in stacked), *x.shape[-2:]))
        return x.reshape(*(self.view.shape[axis] for axis in self.roles.stack), *x.shape[-2:])

    def result(self, y: Any, x_shape: Sequence[int]) -> Any:
        """[*stack, tokens, out] in the axis order that the `dot_general` gives."""
        tokens = [x_shape[axis] for axis in self.free_x(len(x_shape))]
        stacked = self._stacked_atoms()
        out = [atom for atom in self._sorted(self.free_w) if atom.axis not in self.roles.stack]
        y = y.reshape(*(a.size for a in stacked), *tokens, *(a.size for a in out))
        labels: list[Any] = [*stacked, *range(len(tokens)), *out]
        batch, free = self._atoms(self.batch_w), self._atoms(self.free_w)
        ours, theirs = free, list(range(len(tokens)))
        wanted: list[Any] = [*batch, *theirs, *ours] if self.side else [*batch, *ours, *theirs]
        y = jnp.transpose(y, [labels.index(label) for label in wanted])
        shape_w = [axis_size(self.view.axes[axis]) for axis in self.free_w]
        shape_b = [axis_size(self.view.axes[axis]) for axis in self.batch_w]
        return y.reshape(*shape_b, *((*tokens, *shape_w) if self.side else (*shape_w, *tokens)))

    def _atoms(self, axes: Sequence[int]) -> list[Atom]:
        return [atom for axis in axes for atom in self.view.axes[axis]]

    def _sorted(self, axes: Sequence[int]) -> list[Atom]:
        return sorted(self._atoms(axes), key=_order)

    def _stacked_atoms(self) -> list[Atom]:
        kept = self._atoms((*self.batch_w, *self.free_w))
        return sorted((atom for atom in kept if atom.axis in self.roles.stack), key=_order)


def _order(atom: Atom) -> tuple[int, int]:
    return atom.order


@dataclass(frozen=True)
class Contraction:
    """The axes of `view.shape` that one product contracts, keeps and batches over."""

    batch: tuple[int, ...]
    kept: tuple[int, ...]
    inner: tuple[int, ...]


def contraction(view: ParamView, side: int, dimension_numbers: Any) -> Contraction | None:
    """What a dot whose operand `side` is `view` does with the view's source axes.

    Returns None where an axis is torn between roles.
    """
    contract, batch = dimension_numbers
    used = {*contract[side], *batch[side]}
    free = [axis for axis in range(view.ndim) if axis not in used]
    roles = []
    for axes in (batch[side], free, contract[side]):
        whole = whole_axes([atom for axis in axes for atom in view.axes[axis]], view.shape)
        if whole is None:
            return None
        roles.append(whole)
    if set(roles[0]) & set(roles[1]) or set(roles[2]) & {*roles[0], *roles[1]}:
        return None
    # Source axes of size 1 vanish from the atoms; they belong to the outputs.
    seen = {axis for role in roles for axis in role}
    ones = [axis for axis, size in enumerate(view.shape) if size == 1 and axis not in seen]
    return Contraction(roles[0], tuple(sorted((*roles[1], *ones))), roles[2])


def dot_geometry(
    view: ParamView, side: int, dimension_numbers: Any, stack: Sequence[int]
) -> DotGeometry | None:
    """Geometry of a dot; `stack`: the axes of `view.shape` that hold separate matrices."""
    found = contraction(view, side, dimension_numbers)
    if found is None:
        return None
    (contract, batch) = dimension_numbers
    roles = Roles(
        tuple(sorted(stack)),
        tuple(axis for axis in (*found.batch, *found.kept) if axis not in stack),
        found.inner,
    )
    return DotGeometry(
        view, side, contract[1 - side], batch[1 - side], contract[side], batch[side], roles
    )
