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

ROW = 24


def draw(chart: Heat, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    known = [v for row in chart.values for value in row if (v := finite(value)) is not None]
    if not known:
        return nothing(size)
    low, high = min(known), max(known)
    left = min(max(width(name) for name in chart.rows) * SIZE, size * 0.36) + GAP
    box = Box(left, 6, size - 6, 6 + ROW * len(chart.rows))
    # Few columns do not become banners.
    step = min((box.right - box.left) / len(chart.columns), 56.0)
    parts: list[Markup | None] = []
    for index, name in enumerate(chart.rows):
        top = box.top + index * ROW
        parts.append(text(left - GAP, top + ROW / 2 + 4, name, "end", limit=left - GAP, full=name))
        for column, value in enumerate(chart.values[index]):
            shade = _shade(finite(value), low, high)
            if value is None:
                continue
            words = f"{name}, {chart.columns[column]}: {with_unit(show(value), chart.unit)}"
            parts.append(
                element(
                    "rect",
                    element("title", words) if size >= WIDE else None,
                    x=f"{left + column * step:.2f}",
                    y=float(top + 1),
                    width=f"{max(step - min(1.0, step * 0.12), 0.2):.2f}",
                    height=ROW - 2,
                    class_=shade,
                )
            )
    parts.append(_columns(chart, box, step))
    bottom = box.bottom + 40
    parts.append(_ramp(chart, low, high, left, bottom, size))
    return Picture(bottom + 34, join(parts))


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
        every = next((n for n in (2, 5, 10, 20, 25, 50, 100, 200, 500) if n >= every), every)
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


def _ramp(chart: Heat, low: float, high: float, left: float, top: float, size: float) -> Markup:
    """Draws what the shades mean, below the columns."""
    wide = 14.0
    low_text, high_text = show(low), with_unit(show(high), chart.unit)
    begin = 2 + width(low_text) * SIZE + GAP
    top += 8
    shades = [
        element("rect", x=begin + index * wide, y=top, width=wide, height=12.0, class_=f"h{index}")
        for index in range(SHADES)
    ]
    after = begin + SHADES * wide + GAP
    name = axis_title(chart.axis, "")
    words = f"{high_text}   {name}" if name else high_text
    return join(
        [
            text(2, top + 10, low_text),
            *shades,
            text(after, top + 10, words, limit=size - after - 4),
        ]
    )


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
