"""Counts between edges, as columns that touch.

Counts nothing itself: the record has the edges and the counts.
"""

from __future__ import annotations

from bitnet_jax.report.axes import (
    WIDE,
    Box,
    Picture,
    axis_title,
    left_margin,
    nothing,
    scale,
    x_axis,
    y_axis,
)
from bitnet_jax.report.format import show
from bitnet_jax.report.kinds import Histogram, Table, finite
from bitnet_jax.report.markup import element, join

PLOT = 220


def draw(chart: Histogram, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    counts = [finite(count) for count in chart.counts]
    if not any(counts):
        return nothing(size)
    y = scale(counts, 28 + PLOT, 28, zero=True)
    box = Box(left_margin(y, 5), 28, size - 14, 28 + PLOT)
    x = scale(chart.edges, box.left, box.right, tight=True)
    parts = [y_axis(y, box, chart.count_axis)]
    for index, count in enumerate(counts):
        left, right = x.at(chart.edges[index]), x.at(chart.edges[index + 1])
        words = f"{show(chart.edges[index])} to {show(chart.edges[index + 1])}: "
        parts.append(
            element(
                "rect",
                element("title", words + show(chart.counts[index])),
                x=float(left),
                y=float(y.at(count or 0.0)),
                width=float(right - left),
                height=float(y.at(0.0) - y.at(count or 0.0)),
                class_="f1 edge",
            )
        )
    parts.append(x_axis(x, box, axis_title(chart.axis, chart.unit), 4 if size < WIDE else 8))
    return Picture(box.bottom + 44, join(parts))


def legend(chart: Histogram) -> list[tuple[str, str, str]]:
    """A histogram has one series."""
    return []


def describe(chart: Histogram) -> str:
    return f"histogram of {chart.axis or 'values'} in {len(chart.counts)} classes"


def data(chart: Histogram) -> Table:
    rows = [list(row) for row in zip(chart.edges, chart.edges[1:], chart.counts, strict=False)]
    return Table(["from", "to", chart.count_axis], rows)
