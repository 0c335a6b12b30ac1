"""The order of query and key rows that llama.cpp's rotary embedding of neighbouring pairs wants."""

from __future__ import annotations

import numpy as np


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's rotary embedding of neighbouring pairs wants them.

    Of each head, row ``i`` of the first half goes before row ``i`` of the second.
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def separate(rows: np.ndarray, heads: int) -> np.ndarray:
    """Inverse of `interleave`."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
