"""What a note means in the float function."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from bitnet_jax.core import jax_compat
from bitnet_jax.quant.notes import KeepNofM, Note


def weight_note_reference(w: Any, *arrays: Any, note: Note) -> Any:
    """`w`, masked where the note masks; its gradient is `w`'s own (straight-through).

    Scales and activations of a note only mean something once the product is quantized.
    """
    if isinstance(note, KeepNofM):
        return masked(w, note)
    return w


def masked(w: Any, note: KeepNofM) -> Any:
    """`w` where the note keeps it, 0 elsewhere."""

    def left(w: Any) -> Any:
        return w - lax.stop_gradient(w * (1 - note.mask(w).astype(w.dtype)))

    return jax_compat.in_auto_axes(left, jax_compat.explicit_sharding(jax.typeof(w)))(w)
