"""Whether weights on the host are numbers, looked at a cache's worth at a time.

Knows nothing of where they came from.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from bitnet_jax.core.errors import BadData

# Elements looked at at once: they stay in the second cache.
_SOME = 1 << 17


def require_finite(name: str, array: np.ndarray) -> None:
    """Raises `BadData` (``weights.not_finite``) where a float array holds NaN or infinity."""
    if not is_finite(array):
        raise not_finite(name)


def is_finite(array: np.ndarray) -> bool:
    """Whether a float array holds neither NaN nor infinity."""
    return all(bool(part.all()) for part in _finite(array))


def count_not_finite(array: np.ndarray) -> int:
    """How many values of a float array are NaN or infinite."""
    return array.size - sum(int(np.count_nonzero(part)) for part in _finite(array))


def _finite(array: np.ndarray) -> Iterator[np.ndarray]:
    """For some elements after others, which are finite."""
    flat = array.reshape(-1)
    # numpy takes ten times longer over bfloat16 than over its bits, and warns of a signalling NaN.
    bits = flat.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else None
    for at in range(0, flat.size, _SOME):
        if bits is None:
            yield np.isfinite(flat[at : at + _SOME])
        else:
            yield bits[at : at + _SOME] & np.uint16(0x7F80) != 0x7F80


def not_finite(name: str) -> BadData:
    """The error of `require_finite`."""
    return BadData(
        "weights.not_finite",
        f"tensor `{name}` holds NaN or infinity",
        "`bitnet model validate` lists what is wrong; take the file again from its source",
    )
