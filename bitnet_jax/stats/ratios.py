"""Two samples that were not taken together, set against each other by interval.

`medians.ratio_interval` is for rounds that were taken together. Here each side is drawn by
itself, and what the machine did in between can be divided out. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitnet_jax.core.errors import UsageError

_SAMPLES = 4000
# Two samples of three from one source lie apart one time in twenty; of five, one in 252.
FEWEST = 5


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians, with its interval."""

    value: float
    low: float
    high: float

    @property
    def below(self) -> bool:
        """Whether the whole interval is below one."""
        return self.high < 1

    @property
    def above(self) -> bool:
        """Whether the whole interval is above one."""
        return self.low > 1


def ratio_of_medians(
    above: Sequence[float],
    below: Sequence[float],
    *,
    scale_above: Sequence[float] = (),
    scale_below: Sequence[float] = (),
    confidence: float = 0.95,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> Ratio:
    """Returns ``median(above) / median(below)`` with its bootstrap interval.

    Args:
      above, below: at least `FEWEST` values each, positive.
      scale_above, scale_below: what the machine reached beside each; when both are given,
        each median is taken as a share of its scale's median first.
      confidence: of the interval; for several comparisons at once, one minus the error that is
        allowed over how many they are.

    Raises:
      UsageError: too few values, or one that is not positive (``stats.few``).
    """
    generator = np.random.default_rng(seed)
    scaled = bool(len(scale_above) and len(scale_below))
    sides = [above, below, *((scale_below, scale_above) if scaled else ())]
    drawn, value = np.ones(samples), 1.0
    for index, side in enumerate(sides):
        values = np.asarray(side, np.float64)
        if values.size < FEWEST or not np.isfinite(values).all() or values.min() <= 0:
            raise UsageError(
                "stats.few",
                f"{values.size} values: an interval takes {FEWEST} or more, all above zero",
            )
        medians = np.median(values[generator.integers(0, values.size, (samples, values.size))], 1)
        power = 1 if index % 2 == 0 else -1
        drawn = drawn * medians**power
        value *= float(np.median(values)) ** power
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Ratio(value, float(low), float(high))
