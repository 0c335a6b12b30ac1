"""Means of what comes in blocks, and agreement of two orders, with bootstrap intervals.

The tokens of one window of text are no independent values: whole windows are drawn, so that an
interval says what another text would have given. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitnet_jax.core.errors import UsageError

_SAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value and the bounds that hold it at 95 %."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As records hold it."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def through(self, function: Callable[[float], float]) -> Interval:
        """The interval of a monotonic function of the value."""
        low, high = sorted((function(self.low), function(self.high)))
        return Interval(function(self.value), low, high)


def mean_interval(
    blocks: Sequence[np.ndarray] | np.ndarray,
    *,
    confidence: float = 0.95,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the mean of all values, and its percentile bootstrap interval over blocks.

    Args:
      blocks: arrays of any lengths (each at least one value); of two dimensions: a block a row.

    Raises:
      UsageError: there are no values (``stats.empty``).
    """
    sums = np.array([np.sum(block, dtype=np.float64) for block in blocks])
    counts = np.array([np.size(block) for block in blocks], np.float64)
    if not counts.size or counts.min() < 1:
        raise UsageError("stats.empty", "no values to summarise")
    index = np.random.default_rng(seed).integers(0, len(sums), (samples, len(sums)))
    drawn = sums[index].sum(1) / counts[index].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns each value's rank, from 0; equal values share the mean of theirs."""
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(
    one: Sequence[float] | np.ndarray,
    other: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the rank correlation of paired values, its interval over pairs drawn anew.

    Raises:
      UsageError: they are not as many (``stats.length``), or fewer than three
        (``stats.few``), or all equal (``stats.constant``).
    """
    pairs = (
        np.stack([np.asarray(one, np.float64), np.asarray(other, np.float64)])
        if len(one) == len(other)
        else None
    )
    if pairs is None:
        raise UsageError("stats.length", f"{len(one)} values against {len(other)}: no pairs")
    count = pairs.shape[1]
    if count < 3:
        raise UsageError("stats.few", f"{count} pairs: an order takes 3 or more")
    value = _rank_correlation(pairs)
    if np.isnan(value):
        raise UsageError("stats.constant", "all values are equal: there is no order to compare")
    generator = np.random.default_rng(seed)
    drawn = np.array(
        [_rank_correlation(pairs[:, generator.integers(0, count, count)]) for _ in range(samples)]
    )
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def _rank_correlation(pairs: np.ndarray) -> float:
    """Of [2, n]; NaN where one side is constant."""
    a, b = (ranks(side) - (pairs.shape[1] - 1) / 2 for side in pairs)
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else float("nan")
