"""The geometry of a `dot_general` with a parameter: to canonical matrices and back.

Any such product is, up to rearranging axes,

    [*stack, tokens, in] by [*stack, out, in]  ->  [*stack, tokens, out]

where the parameter's axes stand in their source order: so the same weight gives
the same matrix, trits and digest however it is stored and used. Knows nothing of
quantization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from bitnet_jax.ir.views import Atom, ParamView, axis_size, whole_axes


@dataclass(frozen=True)
class DotGeometry:
    """How one `dot_general` maps to canonical matrices.

    Attributes:
      stack, out, inner: the parameter's axes (of `view.shape`) in each role.
      view_order: the order of the view's atoms that gives [*stack, out, in].
    """

    view: ParamView
    side: int
    contract_x: tuple[int, ...]
    batch_x: tuple[int, ...]
    contract_w: tuple[int, ...]
    batch_w: tuple[int, ...]
    stack: tuple[int, ...]
    out: tuple[int, ...]
    inner: tuple[int, ...]

    @property
    def free_w(self) -> list[int]:
        """The view's axes that the output keeps."""
        used = {*self.contract_w, *self.batch_w}
        return [axis for axis in range(self.view.ndim) if axis not in used]

    def weight_matrix(self, value: Any) -> Any:
        """The view's value as [*stack, out, in]."""
        atoms = [atom for atoms in self.view.axes for atom in atoms]
        split = value.reshape([atom.size for atom in atoms])
        order = [
            atoms.index(atom)
            for axes in (self.batch_w, self.free_w, self.contract_w)
            for atom in sorted(self._atoms(axes), key=lambda a: a.order)
        ]
        sizes = self.view.shape
        shape = [sizes[axis] for axis in self.stack]
        shape += [math.prod(sizes[axis] for axis in self.out)]
        shape += [math.prod(sizes[axis] for axis in self.inner)]
        return jnp.transpose(split, order).reshape(shape)

    def activation_matrix(self, x: Any) -> Any:
        """The other operand as [*stack, tokens, in]."""
        free = self._free_x(x.ndim)
        token_shape = [x.shape[axis] for axis in free]
        x = jnp.transpose(x, (*self.batch_x, *free, *self.contract_x))
        sizes, order = self._stack()
        contract = self._atoms(self.contract_w)
        # A batch axis of size 1 vanishes here: it is no axis of the parameter.
        x = x.reshape(*sizes, math.prod(token_shape), *(atom.size for atom in contract))
        lead = len(sizes) + 1
        inner_order = sorted(range(len(contract)), key=lambda i: contract[i].order)
        x = jnp.transpose(x, (*order, len(sizes), *(lead + i for i in inner_order)))
        return x.reshape(*x.shape[:lead], -1) if contract else x[..., None]

    def result(self, y: Any, x_shape: Sequence[int]) -> Any:
        """[*stack, tokens, out] in the axis order that the `dot_general` gives."""
        token_shape = [x_shape[axis] for axis in self._free_x(len(x_shape))]
        _, stack_order = self._stack()
        batch = len(stack_order)
        kept = self._atoms(self.free_w)
        by_source = sorted(kept, key=lambda atom: atom.order)
        y = y.reshape(*y.shape[:batch], *token_shape, *(atom.size for atom in by_source))
        # stack back to the order of the dot's batch axes; out atoms to the view's order
        order = [int(i) for i in np.argsort(stack_order)]
        tokens = [batch + i for i in range(len(token_shape))]
        atoms = [batch + len(token_shape) + by_source.index(atom) for atom in kept]
        shape_w = [axis_size(self.view.axes[axis]) for axis in self.free_w]
        batch_shape = [axis_size(self.view.axes[axis]) for axis in self.batch_w]
        if self.side == 1:
            y = jnp.transpose(y, (*order, *tokens, *atoms))
            return y.reshape(*batch_shape, *token_shape, *shape_w)
        y = jnp.transpose(y, (*order, *atoms, *tokens))
        return y.reshape(*batch_shape, *shape_w, *token_shape)

    def _atoms(self, axes: Sequence[int]) -> list[Atom]:
        return [atom for axis in axes for atom in self.view.axes[axis]]

    def _stack(self) -> tuple[list[int], list[int]]:
        """Sizes of the batch axes that the parameter has, and their order in the parameter."""
        atoms = self._atoms(self.batch_w)
        return [atom.size for atom in atoms], [
            int(i) for i in np.argsort([atom.axis for atom in atoms])
        ]

    def _free_x(self, ndim: int) -> list[int]:
        used = {*self.contract_x, *self.batch_x}
        return [axis for axis in range(ndim) if axis not in used]


def dot_geometry(view: ParamView, side: int, dimension_numbers: Any) -> DotGeometry | None:
    """Geometry of a dot whose operand `side` is `view`.

    Returns None where no canonical matrix exists: a source axis is torn between
    roles, or a batch axis is no whole source axis.
    """
    contract, batch = dimension_numbers
    contract_x, contract_w = contract[1 - side], contract[side]
    batch_x, batch_w = batch[1 - side], batch[side]
    used = {*contract_w, *batch_w}
    free = [axis for axis in range(view.ndim) if axis not in used]
    roles = []
    for axes in (batch_w, free, contract_w):
        atoms = [atom for axis in axes for atom in view.axes[axis]]
        whole = whole_axes(atoms, view.shape)
        if whole is None:
            return None
        roles.append(whole)
    if any(len(view.axes[axis]) > 1 for axis in batch_w):
        return None
    # Source axes of size 1 vanish from the atoms; they belong to the outputs.
    seen = {axis for role in roles for axis in role}
    ones = tuple(axis for axis, size in enumerate(view.shape) if size == 1 and axis not in seen)
    out = tuple(sorted((*roles[1], *ones)))
    return DotGeometry(
        view, side, contract_x, batch_x, contract_w, batch_w, roles[0], out, roles[2]
    )
