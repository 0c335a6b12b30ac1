"""Points in a plane under their bounds: a roofline, where both axes are logarithmic.

Knows nothing of machines.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.report.axes import (
    WIDE,
    Box,
    Picture,
    axis_title,
    left_margin,
    nothing,
    path,
    scale,
    x_axis,
    y_axis,
)
from bitnet_jax.report.format import show, with_unit
from bitnet_jax.report.kinds import Scatter, Table, colour_of, finite
from bitnet_jax.report.markup import element, join

PLOT = 320


def draw(chart: Scatter, size: float) -> Picture:
    """Draws the chart `size` pixels wide."""
    groups = [[(p, _place(chart, p.x, p.y)) for p in group.points] for group in chart.groups]
    bounds = [
        [_place(chart, x, y) for x, y in zip(bound.x, bound.y, strict=True)]
        for bound in chart.bounds
    ]
    placed = [at for group in groups for _, at in group if at is not None]
    placed += [at for bound in bounds for at in bound if at is not None]
    if not placed:
        return nothing(size)
    y = scale([at[1] for at in placed], 28 + PLOT, 28, log=chart.y_log)
    box = Box(left_margin(y, 6), 28, size - 16, 28 + PLOT)
    x = scale([at[0] for at in placed], box.left, box.right, log=chart.x_log)
    parts = [
        y_axis(y, box, axis_title(chart.y_axis, chart.y_unit), 6),
        x_axis(x, box, axis_title(chart.x_axis, chart.x_unit), 4 if size < WIDE else 8, grid=True),
    ]
    for index, bound in enumerate(bounds):
        points = [None if at is None else (x.at(at[0]), y.at(at[1])) for at in bound]
        colour = chart.bounds[index].colour or "neutral"
        parts.append(path(points, f"line s{colour} d{index % 4}"))
    for index, group in enumerate(groups):
        colour = colour_of(chart.groups[index].colour, index)
        for point, at in group:
            if at is None:
                continue
            words = (
                f"{point.name}: {with_unit(show(point.y), chart.y_unit)} at "
                f"{with_unit(show(point.x), chart.x_unit)}"
            )
            parts.append(_shape(index, x.at(at[0]), y.at(at[1]), f"f{colour} edge", words))
    return Picture(box.bottom + 44, join(parts))


def _place(chart: Scatter, x: Any, y: Any) -> tuple[float, float] | None:
    a, b = finite(x), finite(y)
    if a is None or b is None or (chart.x_log and a <= 0) or (chart.y_log and b <= 0):
        return None
    return a, b


def _shape(index: int, x: float, y: float, kind: str, words: str) -> Any:
    """Draws a point: each group has a shape of its own, so that colour is not all."""
    hover = element("title", words)
    if index % 3 == 0:
        return element("circle", hover, cx=float(x), cy=float(y), r=5, class_=kind)
    if index % 3 == 1:
        return element("rect", hover, x=x - 4.5, y=y - 4.5, width=9, height=9, class_=kind)
    corners = f"M{x:.1f} {y - 6:.1f}L{x + 6:.1f} {y:.1f}L{x:.1f} {y + 6:.1f}L{x - 6:.1f} {y:.1f}Z"
    return element("path", hover, d=corners, class_=kind)


def legend(chart: Scatter) -> list[tuple[str, str, str]]:
    """Returns (colour, shape, name) of each group and bound."""
    shapes = ("dot", "box", "diamond")
    entries = [
        (colour_of(group.colour, i), shapes[i % 3], group.name)
        for i, group in enumerate(chart.groups)
    ]
    return entries + [
        (bound.colour or "neutral", f"dash{i % 4}", bound.name)
        for i, bound in enumerate(chart.bounds)
    ]


def describe(chart: Scatter) -> str:
    count = sum(len(group.points) for group in chart.groups)
    bounds = ", ".join(bound.name for bound in chart.bounds)
    return f"{count} points of {chart.y_axis} over {chart.x_axis}" + (
        f", under {bounds}" if bounds else ""
    )


def data(chart: Scatter) -> Table:
    columns = ["group", "point", chart.x_axis or "x", chart.y_axis or "y"]
    rows = [[g.name, p.name, p.x, p.y] for g in chart.groups for p in g.points]
    rows += [[b.name, "", *at] for b in chart.bounds for at in zip(b.x, b.y, strict=True)]
    return Table(columns, rows)
