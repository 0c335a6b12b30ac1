"""The op as recipes call it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.define import define
from bitnet_jax.ops.weight_note.reference import weight_note_reference
from bitnet_jax.quant.notes import Note

weight_note_p = define("weight_note", weight_note_reference, like_first=True)


def weight_note(w: Any, *arrays: Any, note: Note) -> Any:
    """`w` as the note leaves it in the float function; the transform reads the note.

    Args:
      w: a weight, any shape and float dtype.
      arrays: what the note needs beside the weight, with an axis for each of `w`'s, of
        size 1 where they do not vary.
    """
    return weight_note_p.bind(w, *arrays, note=note)
