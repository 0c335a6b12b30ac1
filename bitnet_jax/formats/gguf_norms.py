"""Weights of norms that a GGUF file has larger than they are here: those of Gemma, by 1.

The sum is a float32, which a small weight does not come out of again. Where that is so the weights
themselves stand in `gguf_table`'s table, and are held against the sums.
"""

from __future__ import annotations

import numpy as np

from bitnet_jax.containers.errors import TensorError
from bitnet_jax.formats.gguf_table import EDITED, TABLE, Kept


def raised(value: np.ndarray, offset: float) -> np.ndarray:
    """The weights as a file has them, float32."""
    return value.astype(np.float32) + np.float32(offset)


def lowered(stored: np.ndarray, offset: float) -> np.ndarray:
    """Inverse of `raised`, but for what its sum has rounded, float32."""
    return stored.astype(np.float32) - np.float32(offset)


def kept_exactly(value: np.ndarray, offset: float) -> np.ndarray | None:
    """What the table must say of the weights, float32: nothing where the sums tell them."""
    exact = value.astype(np.float32)
    told = np.array_equal(lowered(raised(exact, offset), offset), exact, equal_nan=True)
    return None if told else exact


def read_norm(
    name: str, stored: np.ndarray, offset: float, kept: Kept | None, where: str
) -> np.ndarray:
    """The weights of a file, float32.

    Raises:
      BadData: the table says others than those that the sums are of (``gguf.table``).
    """
    if kept is None or kept.scale is None:
        return lowered(stored, offset)
    if not np.array_equal(raised(kept.scale, offset), stored.astype(np.float32), equal_nan=True):
        raise TensorError(
            "gguf.table", f"{where}: {TABLE} and tensor `{name}` say different weights", EDITED,
            tensor=name,
        )  # fmt: skip
    return kept.scale
