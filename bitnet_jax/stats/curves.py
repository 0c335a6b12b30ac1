"""A long series kept short: means of neighbours, with the least and the greatest of them.

Takes one value at a time and never holds more than twice its limit, so that a run of a million
steps costs no more than one of a hundred. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stretch:
    """Neighbouring points: the last of their places, and what their values were.

    `mean` lies between `low` and `high`; `count` is how many there are.
    """

    last: float
    mean: float
    low: float
    high: float
    count: int = 1
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Thinned:
    """At most `2 · limit` stretches of equal count (the last may be shorter)."""

    limit: int
    stretches: list[Stretch] = field(default_factory=list)
    each: int = 1

    def add(self, place: float, value: float, **beside: Any) -> None:
        """Takes the next point; of what stands `beside` it, each stretch keeps the last."""
        point = Stretch(place, value, value, value, beside=beside)
        if self.stretches and self.stretches[-1].count < self.each:
            self.stretches[-1] = _joined(self.stretches[-1], point)
            return
        if len(self.stretches) == 2 * self.limit:
            pairs = zip(self.stretches[::2], self.stretches[1::2], strict=True)
            self.stretches = [_joined(one, other) for one, other in pairs]
            self.each *= 2
        self.stretches.append(point)


def _joined(one: Stretch, other: Stretch) -> Stretch:
    count = one.count + other.count
    mean = one.mean + (other.mean - one.mean) * (other.count / count)
    low, high = min(one.low, other.low), max(one.high, other.high)
    # Rounding must not put a mean of equal values outside of them.
    return Stretch(other.last, min(max(mean, low), high), low, high, count, other.beside)
