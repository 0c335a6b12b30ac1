"""A shade for each row and column: eighty layers at a glance.

Knows nothing of layers.
"""

from __future__ import annotations

from bitnet_jax.report.axes import (
    GAP,
    SIZE,
    WIDE,
    Box,
    Picture,
    axis_title,
    nothing,
    text,
)
from bitnet_jax.report.format import show, width, with_unit
from bitnet_jax.report.kinds import Heat, Table, finite
from bitnet_jax.report.markup import Markup, element, join
from bitnet_jax.report.theme import SHADES
from bitnet_jax.report.thinning import said, thinned

ROW = 24


def draw(chart: Heat, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    known = [v for row in chart.values for value in row if (v := finite(value)) is not None]
    if not known:
        return nothing(size)
    low, high = min(known), max(known)
    left = min(max(width(name) for name in chart.rows) * SIZE, size * 0.36) + GAP
    top = 24.0 if chart.axis else 6.0
    box = Box(left, top, size - 6, top + ROW * len(chart.rows))
    # Few columns do not become banners.
    count, room = len(chart.columns), box.right - box.left
    places = min(count, int(room))  # of more columns than pixels, each pixel has one
    step = min(room / places, 56.0)
    title = "; ".join(filter(None, [axis_title(chart.axis, chart.unit), said(count, places)]))
    parts = [text(2, SIZE, title, "axis", limit=size - 4)]
    for index, name in enumerate(chart.rows):
        y = box.top + index * ROW
        parts.append(text(left - GAP, y + ROW / 2 + 4, name, "end", limit=left - GAP, full=name))
        row = chart.values[index]
        for place, column in thinned(count, room, [row.__getitem__]):
            value = row[column]
            if value is None:
                continue
            words = f"{name}, {chart.columns[column]}: {with_unit(show(value), chart.unit)}"
            parts.append(
                element(
                    "rect",
                    element("title", words) if size >= WIDE else None,
                    x=f"{left + place * step:.2f}",
                    y=float(y + 1),
                    width=f"{max(step - min(1.0, step * 0.12), 0.2):.2f}",
                    height=ROW - 2,
                    class_=_shade(finite(value), low, high),
                )
            )
    parts.append(_columns(chart, box, step * places / count))
    parts.append(_ramp(low, high, box.bottom + 48))
    return Picture(box.bottom + 66, join(parts))


def _shade(value: float | None, low: float, high: float) -> str:
    """Returns the class of a shade; what is no number has one of its own."""
    if value is None:
        return "none"
    share = (value - low) / (high - low) if high > low else 0.5
    return f"h{min(int(share * SHADES), SHADES - 1)}"


def _columns(chart: Heat, box: Box, step: float) -> Markup:
    """Names the columns, as many of them as there is room for."""
    widest = max(width(name) for name in chart.columns) * SIZE + 10
    every = max(1, -int(-widest // step))
    if every > 1:  # a round distance reads better
        round_ones = (n * 10**power for power in range(9) for n in (1, 2, 2.5, 5))
        every = next(int(n) for n in round_ones if n == int(n) and n >= every)
    parts = [
        text(box.left + step * (index + 0.5), box.bottom + 16, name, "mid")
        for index, name in enumerate(chart.columns)
        if index % every == 0
    ]
    if chart.column_axis:
        middle = box.left + step * len(chart.columns) / 2
        middle = max(middle, box.left + width(chart.column_axis) * SIZE / 2)
        parts.append(text(middle, box.bottom + 34, chart.column_axis, "axis mid"))
    return join(parts)


def _ramp(low: float, high: float, top: float) -> Markup:
    """Draws what the shades mean, below the columns."""
    wide = 14.0
    begin = 2 + width(show(low)) * SIZE + GAP
    shades = [
        element("rect", x=begin + index * wide, y=top, width=wide, height=12.0, class_=f"h{index}")
        for index in range(SHADES)
    ]
    after = begin + SHADES * wide + GAP
    return join([text(2, top + 10, show(low)), *shades, text(after, top + 10, show(high))])


def legend(chart: Heat) -> list[tuple[str, str, str]]:
    """The picture has a ramp instead."""
    return []


def describe(chart: Heat) -> str:
    return (
        f"shades of {chart.axis or 'values'}: {len(chart.rows)} rows, {len(chart.columns)} columns"
    )


def data(chart: Heat) -> Table:
    rows = [[name, *values] for name, values in zip(chart.rows, chart.values, strict=True)]
    return Table([chart.column_axis or "", *chart.columns], rows)
