"""Medians with their spread, and timings taken so that they can be compared.

Knows nothing of models. The clock is a parameter; random numbers have a fixed
seed, so the same values give the same interval.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitnet_jax.core.errors import UsageError

Statistic = Callable[[np.ndarray], np.ndarray]
_SAMPLES = 2000


def median(values: Sequence[float] | np.ndarray) -> float:
    """Returns the median of at least one value, in float64; NaN where one is NaN."""
    return float(np.median(_values(values)))


def mad(values: Sequence[float] | np.ndarray) -> float:
    """Returns the median absolute deviation from the median (not scaled to a sigma)."""
    array = _values(values)
    return float(np.median(np.abs(array - np.median(array))))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of the median.

    With fewer than about six values the interval is their range or near it, and
    covers less than it says: take more.
    """
    return _interval(_values(values)[None], lambda drawn: drawn[0], confidence, samples, seed)


def ratio_interval(
    above: Sequence[float] | np.ndarray,
    below: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    samples: int = _SAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the interval of ``median(above) / median(below)`` for interleaved runs.

    Rounds are drawn whole (the i-th of both together), so that a slow minute of
    the machine, which both saw, cancels.
    """
    both = np.stack([_values(above), _values(below)]) if len(above) == len(below) else None
    if both is None:
        raise UsageError("stats.length", f"{len(above)} runs against {len(below)}: not interleaved")
    return _interval(both, lambda drawn: drawn[0] / drawn[1], confidence, samples, seed)


@dataclass(frozen=True)
class Summary:
    """Values in five numbers; low and high bound the median at 95 %."""

    count: int
    median: float
    mad: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray, *, seed: int = 0) -> Summary:
        """Returns the summary of at least one value."""
        low, high = bootstrap_interval(values, seed=seed)
        return cls(len(values), median(values), mad(values), low, high)


def interleave(
    callables: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Returns seconds per call for each name: `repeats` rounds, each calling all once.

    Rounds rather than blocks, since a shared machine's speed drifts by the minute;
    each round starts one further in the list, so that no one always runs behind
    the same other. The callables must wait for their result themselves
    (`block_until_ready`). The warm-up rounds (compilation) are not counted.

    Raises:
      UsageError: ``stats.repeats``.
    """
    if repeats < 1 or warmup < 0:
        raise UsageError("stats.repeats", f"{repeats} repeats after {warmup} rounds of warm-up")
    names = list(callables)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, repeats):
        shift = number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            start = clock()
            callables[name]()
            elapsed = clock() - start
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def _values(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64).reshape(-1)
    if not array.size:
        raise UsageError("stats.empty", "no values to summarise")
    return array


def _interval(
    columns: np.ndarray, statistic: Statistic, confidence: float, samples: int, seed: int
) -> tuple[float, float]:
    if not 0 < confidence < 1 or samples < 1:
        raise UsageError("stats.confidence", f"confidence {confidence}, {samples} samples")
    count = columns.shape[-1]
    generator = np.random.default_rng(seed)
    # In chunks, so that a million values do not make a table of 2000 million.
    step = max(1, 2**22 // count)
    drawn = [
        np.median(columns[:, generator.integers(0, count, (n, count))], axis=-1)
        for n in _chunks(samples, step)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(np.concatenate(drawn, axis=-1)), [tail, 1 - tail])
    return float(low), float(high)


def _chunks(total: int, step: int) -> list[int]:
    return [min(step, total - start) for start in range(0, total, step)] if total else []


def geometric_mean(values: Sequence[float] | np.ndarray) -> float:
    """Returns the geometric mean of positive values: the mean of ratios."""
    return math.exp(float(np.mean(np.log(_values(values)))))
