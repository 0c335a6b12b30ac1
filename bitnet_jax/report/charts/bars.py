"""Bars by category: a row each where names can be read, else a column each.

Knows nothing of what is counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from bitnet_jax.report.axes import (
    GAP,
    SIZE,
    WIDE,
    Box,
    Picture,
    Scale,
    axis_title,
    left_margin,
    nothing,
    scale,
    text,
    x_axis,
    y_axis,
)
from bitnet_jax.report.format import number, show, width, with_unit
from bitnet_jax.report.kinds import Bars, Table, colour_of, finite
from bitnet_jax.report.markup import Markup, element, join
from bitnet_jax.report.thinning import said, thinned

# More categories than this stand as columns, by their number; each tells its name on hover.
MOST_ROWS = 32
ROW, BAR = 26, 16
PLOT = 220


def draw(chart: Bars, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    if not chart.categories or not _extent(chart):
        return nothing(size)
    return _rows(chart, size) if len(chart.categories) <= MOST_ROWS else _columns(chart, size)


def _extent(chart: Bars) -> list[float]:
    """Returns the values that bars end at."""
    known = [[finite(value) for value in series.values] for series in chart.series]
    if not chart.stacked:
        return [value for values in known for value in values if value is not None]
    stacks = [
        [value for value in column if value is not None] for column in zip(*known, strict=True)
    ]
    ends = [sum(v for v in stack if v > 0) for stack in stacks if stack]
    return ends + [sum(v for v in stack if v < 0) for stack in stacks if stack]


def _rows(chart: Bars, size: float) -> Picture:
    lanes = 1 if chart.stacked else max(len(chart.series), 1)
    row = ROW if lanes == 1 else lanes * (BAR - 2) + 12
    names = _told_apart(chart.categories)
    named = max(width(name) for name in names) * SIZE
    left = min(named, size * 0.36) + GAP
    # A bar of a stack has no figure at its end: the parts have theirs.
    ends = 0.0 if chart.stacked else max(width(_label(chart, v)) for v in _all(chart)) * SIZE + GAP
    box = Box(left, 4, size - ends - 6, 4 + row * len(chart.categories))
    values = scale(_extent(chart), box.left, box.right, zero=True, tight=not chart.stacked)
    parts = [
        x_axis(values, box, axis_title(chart.axis, chart.unit), 3 if size < WIDE else 6, grid=True)
    ]
    for index, name in enumerate(chart.categories):
        top = box.top + index * row
        label = text(
            left - GAP, top + row / 2 + 4, names[index], "end", limit=left - GAP, full=name
        )
        parts.append(label)
        for lane, (begin, end, value, colour, series) in enumerate(_bars(chart, values, index)):
            bar = BAR if lanes == 1 else BAR - 4
            y = top + (row - BAR) / 2 if lanes == 1 else top + 6 + lane * (BAR - 2)
            words = f"{name}, {series}: {_label(chart, value)}"
            parts.append(_bar(begin, y, end - begin, bar, colour, words))
            if not chart.stacked:
                right = max(begin, end) + 5
                parts.append(text(right, y + bar / 2 + 4, _label(chart, value), "figure"))
    return Picture(box.bottom + (44 if axis_title(chart.axis, chart.unit) else 24), join(parts))


def _told_apart(names: Sequence[str]) -> list[str]:
    """Returns names less the words (up to a dot) that all begin with: they tell nothing."""
    begin = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    return [name[begin.rfind(".") + 1 :] for name in names]


def _columns(chart: Bars, size: float) -> Picture:
    count = len(chart.categories)
    values = scale(_extent(chart), 28 + PLOT, 28, zero=True)
    box = Box(left_margin(values, 5), 28, size - 8, 28 + PLOT)
    parts = [y_axis(values, box, axis_title(chart.axis, chart.unit))]
    numbers = Scale(0.5, count + 0.5, box.left, box.right)
    wide_box = box.right - box.left
    drawn = thinned(count, wide_box, [series.values.__getitem__ for series in chart.series])
    step = wide_box / len(drawn)
    lanes = 1 if chart.stacked else max(len(chart.series), 1)
    # Where hundreds share the width, gaps would only flicker.
    gap = min(1.0, step * 0.15) if step > 4 else 0.0
    columns: list[Markup] = []
    for at, index in drawn:
        name = chart.categories[index]
        for lane, (begin, end, value, colour, series) in enumerate(_bars(chart, values, index)):
            place = at + (0.0 if chart.stacked else lane / lanes)
            # Rounded here: the end of one column is the beginning of the next, to the bit.
            x = round(box.left + step * place, 2)
            wide = round(box.left + step * (place + 1 / lanes), 2) - gap - x
            high, y = abs(end - begin), min(begin, end)
            words = f"{name}, {series}: {_label(chart, value)}" if size >= WIDE else ""
            columns.append(_bar(x, y, wide, high, colour, words, fine=True))
    parts.append(element("g", *columns, class_=None if gap else "crisp"))
    title = chart.category_axis or "number in the order of the table"
    title = "; ".join(filter(None, [title, said(count, len(drawn))]))
    parts.append(x_axis(numbers, box, title, 4 if size < WIDE else 8))
    return Picture(box.bottom + 44, join(parts))


def _bars(chart: Bars, values: Scale, index: int) -> list[tuple[float, float, object, str, str]]:
    """Returns (from pixel, to pixel, value, colour, series) of one category's bars."""
    up = down = 0.0
    bars = []
    for lane, series in enumerate(chart.series):
        value = series.values[index]
        drawn = finite(value) or 0.0
        start = 0.0
        if chart.stacked:
            start = up if drawn >= 0 else down
            up, down = (up + drawn, down) if drawn >= 0 else (up, down + drawn)
        colour = colour_of(series.colour, lane)
        bars.append((values.at(start), values.at(start + drawn), value, colour, series.name))
    return bars


def _bar(
    x: float, y: float, wide: float, high: float, colour: str, words: str, fine: bool = False
) -> Markup:
    if wide < 0:
        x, wide = x + wide, -wide
    # Where hundreds share the width, a tenth of a pixel is too coarse. Both ends are rounded, not
    # the size: what touches in numbers must touch on the screen.
    places = 2 if fine else 1
    left, top = round(x, places), round(y, places)
    return element(
        "rect",
        element("title", words) if words else None,
        x=f"{left:.{places}f}",
        y=f"{top:.{places}f}",
        width=f"{round(x + wide, places) - left:.{places}f}",
        height=f"{round(y + high, places) - top:.{places}f}",
        class_=f"f{colour}",
    )


def _label(chart: Bars, value: object) -> str:
    number_like = isinstance(value, int | float) and not isinstance(value, bool)
    return with_unit(number(value), chart.unit) if number_like else show(value)  # type: ignore[arg-type]


def _all(chart: Bars) -> list[object]:
    return [value for series in chart.series for value in series.values] or [None]


def legend(chart: Bars) -> list[tuple[str, str, str]]:
    """Returns (colour, shape, name) of each series; one alone is named by the axis."""
    if len(chart.series) < 2:
        return []
    return [(colour_of(s.colour, i), "box", s.name) for i, s in enumerate(chart.series)]


def describe(chart: Bars) -> str:
    how = "stacked bars" if chart.stacked else "bars"
    names = ", ".join(series.name for series in chart.series)
    return f"{how}: {names}; {len(chart.categories)} categories"


def data(chart: Bars) -> Table:
    columns = [chart.category_axis or "category", *(series.name for series in chart.series)]
    values = [series.values for series in chart.series]
    return Table(columns, [list(row) for row in zip(chart.categories, *values, strict=True)])
