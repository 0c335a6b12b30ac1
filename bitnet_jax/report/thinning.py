"""Which of too many values are drawn: one for each pixel, the one that must not be missed.

A mean would be a number that stands in no record, and would hide what is far from the others.
Knows no chart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bitnet_jax.report.kinds import finite


def thinned(
    count: int, room: float, rows: Sequence[Callable[[int], object]]
) -> list[tuple[int, int]]:
    """Returns (place, index) of what is drawn: all, or one index for each of `room` places.

    Of the indices that share a place it is the one whose values are farthest from the means of
    all. What is no number is farthest of all.

    Args:
      count: how many values there are along the chart.
      room: pixels along it.
      rows: index -> value, for each series.
    """
    places = max(int(room), 1)
    if count <= places:
        return [(index, index) for index in range(count)]
    columns = [[finite(row(index)) for index in range(count)] for row in rows]
    far = [0.0] * count
    for column in columns:
        known = [value for value in column if value is not None]
        mean = math.fsum(known) / len(known) if known else 0.0
        for index, value in enumerate(column):
            far[index] += math.inf if value is None else abs(value - mean)
    bounds = [place * count // places for place in range(places + 1)]
    return [
        (place, max(range(begin, end), key=far.__getitem__))
        for place, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]


def said(count: int, drawn: int) -> str:
    """Returns the words that tell a reader of it; none where all is drawn."""
    if drawn == count:
        return ""
    return f"of each {math.ceil(count / drawn)} the one that differs most"
