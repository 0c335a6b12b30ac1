"""The mean of absolute values, with one reduction tree for every device and for numpy.

Training, packing and conversion all call this one function, so that the scale a
training step used is bit for bit the scale that is written. A library's `mean`
gives other last bits on another device, batch of fusions or thread count: here
only element-wise float32 additions are used, whose result IEEE 754 fixes.

Knows nothing of rounding to a scale dtype or of trits: see `ternary.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def namespace(array: Any) -> Any:
    """Returns `numpy` for a numpy array, else `jax.numpy`: one code, two homes."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    import jax.numpy as jnp

    return jnp


def tree_sum(x: Any) -> Any:
    """Sums float32 `x` over its last axis by halving: first half plus second half.

    The upper half is padded with one zero when the length is odd. About twice the
    input is read and written; the order of additions depends on the length alone.
    """
    xp = namespace(x)
    length = x.shape[-1]
    if length == 0:
        return xp.zeros(x.shape[:-1], np.float32)
    while length > 1:
        half = (length + 1) // 2
        upper = x[..., half:]
        if upper.shape[-1] < half:
            pad = [(0, 0)] * (x.ndim - 1) + [(0, 1)]
            upper = xp.pad(upper, pad)
        x = x[..., :half] + upper
        length = half
    return x[..., 0]


def absmean(w: Any) -> Any:
    """Mean of ``|w|`` over the last axis, float32 (`tree_sum` times float32(1/n)).

    Multiplying by the rounded reciprocal rather than dividing: XLA may turn a
    division by a constant into that product, numpy would not.

    Args:
      w: any float dtype, shape [..., n].

    Returns:
      float32, shape [...].
    """
    xp = namespace(w)
    count = w.shape[-1]
    reciprocal = np.float32(1.0 / count) if count else np.float32(0)
    return tree_sum(xp.abs(w.astype(np.float32))) * reciprocal


def flatten_last(x: Any, axes: int) -> Any:
    """Merges the last `axes` axes of `x` into one (row-major)."""
    lead = x.shape[: x.ndim - axes]
    return x.reshape(*lead, math.prod(x.shape[x.ndim - axes :]))
