"""What is told of one activation, and how far two are apart. Host arrays only; runs nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def host(value: Any) -> np.ndarray:
    """The array on the host, in its own dtype."""
    return np.asarray(value)


def statistics(value: Any) -> dict[str, Any]:
    """Shape, dtype, least, greatest, mean, mean and largest size, what is no number, a digest.

    The figures are those of the finite elements, in float64; None where there is none. The digest
    is the beginning of the SHA-256 of the elements' bytes: equal exactly where the bits are.
    """
    array = np.ascontiguousarray(host(value))
    wide = array.astype(np.float64)
    finite = np.isfinite(wide)
    good = wide[finite] if not finite.all() else wide.reshape(-1)
    figures: dict[str, Any] = dict.fromkeys(("min", "max", "mean", "absmean", "absmax"))
    if good.size:
        size = np.abs(good)
        figures = {
            "min": float(good.min()),
            "max": float(good.max()),
            "mean": float(good.mean()),
            "absmean": float(size.mean()),
            "absmax": float(size.max()),
        }
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        **figures,
        "nan": int(np.isnan(wide).sum()),
        "infinite": int(np.isinf(wide).sum()),
        "digest": hashlib.sha256(array.tobytes()).hexdigest()[:16],
    }


def difference(first: Any, second: Any) -> dict[str, Any]:
    """How far `second` is from `first`, both of one shape.

    Returns:
      difference: the largest, relative to the largest finite size in `first`; infinite where one
        has NaN or infinity and the other not the same. at: where. first, second: the values there.
      differing: share of elements that are not equal.
    """
    a, b = (host(value).astype(np.float64) for value in (first, second))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    sizes = np.abs(a[np.isfinite(a)])
    largest = float(sizes.max()) if sizes.size and sizes.max() > 0 else 1.0
    if not apart.size:
        return {"difference": 0.0, "at": [], "first": None, "second": None, "differing": 0.0}
    at = np.unravel_index(int(apart.argmax()), apart.shape)
    return {
        "difference": float(apart[at]) / largest,
        "at": [int(index) for index in at],
        "first": float(a[at]),
        "second": float(b[at]),
        "differing": float(1 - same.mean()),
    }
