"""Rounds of measurements that go on until each median is known well enough.

As `medians.interleave`, but what is called gives its own value, and how many rounds there are
is found out: the rows of a benchmark take from milliseconds to minutes. Knows nothing of what
is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bitnet_jax.core.errors import UsageError
from bitnet_jax.stats.medians import Summary


@dataclass(frozen=True)
class Until:
    """When a row has been measured enough.

    Attributes:
      width: half the interval over the median that is narrow enough.
      least, most: how many values at least, and at most.
      seconds: a row that took longer than this in all stops at `least` values.
      count: exactly so many values, whatever the interval; None: the above.
    """

    width: float = 0.02
    least: int = 5
    most: int = 40
    seconds: float = 20.0
    count: int | None = None

    def enough(self, values: Sequence[float], seconds: float) -> bool:
        """Says whether a row with these values, which took `seconds`, is done."""
        if self.count is not None:
            return len(values) >= self.count
        if len(values) < self.least:
            return False
        slow = len(values) >= self.most or seconds > self.seconds
        return slow or relative_width(values) <= self.width


def relative_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the median over the median; infinite for a median of zero."""
    summary = Summary.of(values)
    half = (summary.high - summary.low) / 2
    return half / abs(summary.median) if summary.median else float("inf")


def rounds(
    measured: Mapping[str, Callable[[], float]],
    until: Until,
    *,
    beside: Mapping[str, Callable[[], float]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    told: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Returns the values of each row: rounds that call all rows that are not done.

    The i-th values of all rows are of one round, so that they can be set beside each other:
    a slow minute of the machine is seen by all. Each round begins one further in the list.

    Args:
      measured: name to what measures it once and gives its value.
      until: when a row is done.
      beside: called once in every round, whatever it gives (what the others are compared with).
      told: called with the name of each row as it has been measured.

    Raises:
      UsageError: ``stats.repeats``: a count below one.
    """
    if until.count is not None and until.count < 1:
        raise UsageError("stats.repeats", f"{until.count} repetitions", "measure at least once")
    beside = dict(beside or {})
    values: dict[str, list[float]] = {name: [] for name in (*measured, *beside)}
    seconds = dict.fromkeys(values, 0.0)
    number = 0
    while left := [n for n in measured if not until.enough(values[n], seconds[n])]:
        shift = number % len(left)
        for name in (*beside, *left[shift:], *left[:shift]):
            begun = clock()
            values[name].append({**beside, **measured}[name]())
            seconds[name] += clock() - begun
            if told is not None:
                told(name)
        number += 1
    return values


def paired_rounds(
    measured: Mapping[str, Callable[[], float]],
    enough: Callable[[Mapping[str, Sequence[float]]], bool],
    told: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Returns as many values for each name: rounds of all of them, until `enough` says so.

    For what is compared with each other: A B C, B C A, C A B, …
    """
    values: dict[str, list[float]] = {name: [] for name in measured}
    names, number = list(measured), 0
    while names and not enough(values):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            values[name].append(measured[name]())
            if told is not None:
                told(name)
        number += 1
    return values
