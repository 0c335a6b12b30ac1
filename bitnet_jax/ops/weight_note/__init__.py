"""A note on a weight: what a recipe asks of it, kept whole in the program."""

from bitnet_jax.ops.weight_note.api import weight_note, weight_note_p

__all__ = ["weight_note", "weight_note_p"]
