"""Reading a lookup of whole rows off an equation: which rows, and what out of range means.

Knows `gather` and `dynamic_slice` as `x[i]`, `jnp.take` and embedding layers spell them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bitnet_jax.core import jax_compat
from bitnet_jax.ir.views import ParamView, identity_axes


@dataclass(frozen=True)
class Rows:
    """The rows that a lookup reads.

    Attributes:
      indices: int [...]; the result is [..., columns].
      mode: ``clip`` or ``fill``, of an index out of range.
      fill: what it is filled with; None is NaN.
    """

    indices: Any
    mode: str
    fill: float | None = None


def row_indices(eqn: Any, view: ParamView, indices: Sequence[Any]) -> Rows | None:
    """The rows of a 2-D table that `eqn` looks up, or None if it is no lookup of whole rows."""
    if not is_row_lookup(eqn, view):
        return None
    if eqn.primitive.name == "dynamic_slice":
        return Rows(jnp.asarray(indices[0]), "clip")
    (places,) = indices
    column = eqn.params["dimension_numbers"].start_index_map.index(0)
    return Rows(places[..., column], *jax_compat.out_of_range(eqn))


def is_row_lookup(eqn: Any, view: ParamView) -> bool:
    """True if `eqn` reads whole rows of a 2-D parameter that no view has rearranged."""
    shape = view.shape
    unmoved = (
        len(shape) == 2
        and not view.stacked
        and view.axes == identity_axes(shape)
        and not any(view.windows)
    )
    sizes = tuple(eqn.params["slice_sizes"])
    if not unmoved or sizes != (1, shape[1]):
        return False
    if eqn.primitive.name == "dynamic_slice":
        return True
    numbers = eqn.params["dimension_numbers"]
    rank = len(eqn.outvars[0].aval.shape)
    # The row's axes come last; one of size 1 may stand before it, as vmap of an index gives.
    last = numbers.offset_dims == tuple(range(rank - len(numbers.offset_dims), rank))
    return last and not numbers.operand_batching_dims and 0 in numbers.start_index_map
