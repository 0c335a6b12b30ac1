"""A chart with what stands around it: heading, legend, descriptions, the table of its values.

The one place that knows every kind of chart, as a table. A kind is a row and a file.
"""

from __future__ import annotations

from types import ModuleType

from bitnet_jax.report.axes import NARROW, WIDE
from bitnet_jax.report.charts import bars, diagram, heat, histogram, lines, scatter
from bitnet_jax.report.format import show
from bitnet_jax.report.kinds import Bars, Chart, Diagram, Heat, Histogram, Lines, Scatter
from bitnet_jax.report.markup import Markup, element
from bitnet_jax.report.tables import drawn_table

# A module has `draw`, `legend`, `describe` and `data`.
DRAWERS: dict[type[Chart], ModuleType] = {
    Bars: bars,
    Lines: lines,
    Histogram: histogram,
    Heat: heat,
    Scatter: scatter,
    Diagram: diagram,
}


def figure(chart: Chart, number: int) -> Markup:
    """Returns a chart as a figure; `number` makes its ids its own."""
    drawer = DRAWERS[type(chart)]
    described = drawer.describe(chart)
    pictures = [
        _picture(drawer, chart, described, size, f"chart-{number}-{name}", name)
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    ]
    values = None
    if chart.data:
        table = drawer.data(chart)
        rows = "1 row" if len(table.rows) == 1 else f"{show(len(table.rows))} rows"
        values = element(
            "details",
            element("summary", f"values ({rows})"),
            drawn_table(table, chart.title),
            class_="values",
        )
    return element("figure", _legend(drawer.legend(chart)), *pictures, values)


def _picture(
    drawer: ModuleType, chart: Chart, described: str, size: int, name: str, kind: str
) -> Markup:
    picture = drawer.draw(chart, size)
    return element(
        "svg",
        element("title", chart.title, id=f"{name}-t"),
        element("desc", described, id=f"{name}-d"),
        picture.body,
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
        viewBox=f"0 0 {size} {picture.height:.0f}",
        class_=f"chart {kind}",
    )


def _legend(entries: list[tuple[str, str, str]]) -> Markup | None:
    if not entries:
        return None
    return element("ul", *[_entry(*entry) for entry in entries], class_="legend")


def _entry(colour: str, shape: str, name: str) -> Markup:
    marks = {
        "box": element("rect", x=2, y=2, width=12, height=10, rx=2, class_=f"f{colour}"),
        "dot": element("circle", cx=8, cy=7, r=5, class_=f"f{colour}"),
        "diamond": element("path", d="M8 1L14 7L8 13L2 7Z", class_=f"f{colour}"),
    }
    mark = marks.get(shape) or element("path", d="M0 7L26 7", class_=f"line s{colour} d{shape[-1]}")
    wide = 16 if shape in marks else 26
    key = element("svg", mark, viewBox=f"0 0 {wide} 14", width=wide, height=14, aria_hidden="true")
    return element("li", key, element("span", name))
