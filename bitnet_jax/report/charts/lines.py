"""Curves over a common x, with intervals, and marks to compare them with.

Each curve has a colour and a dash of its own. Knows nothing of what is measured.
"""

from __future__ import annotations

from bitnet_jax.report.axes import (
    SIZE,
    WIDE,
    Box,
    Picture,
    Scale,
    axis_title,
    left_margin,
    line,
    nothing,
    path,
    scale,
    text,
    x_axis,
    y_axis,
)
from bitnet_jax.report.format import show, width
from bitnet_jax.report.kinds import Curve, Lines, Table, colour_of, finite
from bitnet_jax.report.markup import Markup, element, join

PLOT = 260
# A point each, where they can be told apart.
MOST_DOTS = 48


def draw(chart: Lines, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    curves = [_points(curve, chart) for curve in chart.series]
    known = [point for points in curves for point in points if point is not None]
    if not known:
        return nothing(size)
    marks = [value for mark in chart.marks if (value := finite(mark.value)) is not None]
    around = [v for c in chart.series for v in [*(c.low or ()), *(c.high or ())]]
    heights = [y for _, y in known] + marks + [v for v in map(finite, around) if v is not None]
    y = scale(heights, 28 + PLOT, 28, log=chart.y_log)
    box = Box(left_margin(y, 5), 28, size - 14, 28 + PLOT)
    x = scale([x for x, _ in known], box.left, box.right, log=chart.x_log, tight=True)
    parts: list[Markup | None] = [y_axis(y, box, axis_title(chart.y_axis, chart.y_unit))]
    title = axis_title(chart.x_axis, chart.x_unit)
    parts.append(x_axis(x, box, title, 4 if size < WIDE else 8))
    parts += [_band(curve, chart, x, y, index) for index, curve in enumerate(chart.series)]
    for index, (curve, points) in enumerate(zip(chart.series, curves, strict=True)):
        parts.append(_curve(curve, points, x, y, index))
    parts += _marks(chart, curves, y, box)
    return Picture(box.bottom + (44 if title else 26), join(parts))


def _points(curve: Curve, chart: Lines) -> list[tuple[float, float] | None]:
    """Returns the points that can be drawn; None where a value cannot."""
    points: list[tuple[float, float] | None] = []
    for raw_x, raw_y in zip(curve.x, curve.y, strict=True):
        x, y = finite(raw_x), finite(raw_y)
        hidden = x is None or y is None or (chart.x_log and x <= 0) or (chart.y_log and y <= 0)
        points.append(None if hidden else (x, y))  # type: ignore[arg-type]
    return points


def _curve(curve: Curve, points: list, x: Scale, y: Scale, index: int) -> Markup:
    placed = [None if p is None else (x.at(p[0]), y.at(p[1])) for p in points]
    colour = colour_of(curve.colour, index)
    known = [(p, raw) for p, raw in zip(placed, points, strict=True) if p is not None]
    dots = known if len(known) <= MOST_DOTS else []
    return join(
        [
            path(placed, f"line s{colour} d{index % 4}"),
            *(
                element(
                    "circle",
                    element("title", f"{curve.name}: {show(raw[1])} at {show(raw[0])}"),
                    cx=float(p[0]),
                    cy=float(p[1]),
                    r=3,
                    class_=f"f{colour}",
                )
                for p, raw in dots
            ),
        ]
    )


def _band(curve: Curve, chart: Lines, x: Scale, y: Scale, index: int) -> Markup | None:
    """Draws the interval around a curve."""
    if curve.low is None or curve.high is None:
        return None
    low = _points(Curve("", curve.x, curve.low), chart)
    high = _points(Curve("", curve.x, curve.high), chart)
    both = [(a, b) for a, b in zip(low, high, strict=True) if a is not None and b is not None]
    if not both:
        return None
    around = [a for a, _ in both] + [b for _, b in reversed(both)]
    placed: list[tuple[float, float] | None] = [(x.at(p[0]), y.at(p[1])) for p in around]
    return path(placed, f"band f{colour_of(curve.colour, index)}")


def _marks(chart: Lines, curves: list, y: Scale, box: Box) -> list[Markup]:
    """Draws the marks, each named at the side where the curves are farther from it."""
    known = [[point for point in points if point is not None] for points in curves]
    firsts = [points[0][1] for points in known if points]
    lasts = [points[-1][1] for points in known if points]
    parts = []
    for mark in chart.marks:
        value = finite(mark.value)
        if value is None or (chart.y_log and value <= 0):
            continue
        words = f"{mark.name}: {show(mark.value)}"
        at = y.at(value)
        above = at - 6 if at - 20 > box.top else at + 16
        room = min(width(words) * SIZE, box.right - box.left)
        parts.append(line(box.left, at, box.right, at, "mark"))
        left = _distance(firsts, at, y) > _distance(lasts, at, y)
        x, side = (box.left + 4, "") if left else (box.right - 4, " end")
        parts.append(text(x, above, words, f"figure halo{side}", limit=room + 1))
    return parts


def _distance(values: list[float], at: float, y: Scale) -> float:
    """Returns how many pixels the nearest of `values` is from a mark at pixel `at`."""
    return min(abs(y.at(value) - at) for value in values)


def legend(chart: Lines) -> list[tuple[str, str, str]]:
    """Returns (colour, shape, name) of each curve."""
    if len(chart.series) < 2 and not any(curve.low for curve in chart.series):
        return []
    entries = []
    for index, curve in enumerate(chart.series):
        colour = colour_of(curve.colour, index)
        entries.append((colour, f"dash{index % 4}", curve.name))
    return entries


def describe(chart: Lines) -> str:
    names = ", ".join(curve.name for curve in chart.series)
    known = [mark for mark in chart.marks if finite(mark.value) is not None]
    marks = ", ".join(f"{mark.name} {show(mark.value)}" for mark in known)
    points = max((len(curve.x) for curve in chart.series), default=0)
    return f"lines: {names}; up to {points} points" + (f"; compared with {marks}" if marks else "")


def data(chart: Lines) -> Table:
    x = chart.x_axis or "x"
    if all(list(curve.x) == list(chart.series[0].x) for curve in chart.series[1:]):
        columns, values = [x], [chart.series[0].x if chart.series else []]
        for curve in chart.series:
            for name, row in (("", curve.y), (" (low)", curve.low), (" (high)", curve.high)):
                if row is not None:
                    columns.append(curve.name + name)
                    values.append(row)
        return Table(columns, [list(row) for row in zip(*values, strict=True)])
    rows = [[c.name, *point] for c in chart.series for point in zip(c.x, c.y, strict=True)]
    return Table(["line", x, chart.y_axis or "y"], rows)
