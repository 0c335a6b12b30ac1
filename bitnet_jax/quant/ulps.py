"""How far apart two float32 numbers are, in units of the last place."""

from __future__ import annotations

from typing import Any

import numpy as np


def ulps(first: Any, second: Any) -> np.ndarray:
    """How many float32 numbers lie between, for each element: int64, 0 where they are equal.

    Args:
      first, second: finite float32 of one shape.
    """
    steps = []
    for value in (first, second):
        bits = np.atleast_1d(np.asarray(value, np.float32)).view(np.int32).astype(np.int64)
        # Negative floats order against their bits; -0 and 0 are one number.
        steps.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    return np.abs(steps[0] - steps[1])
