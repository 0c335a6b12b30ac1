"""Values as HTML: cards, pairs and tables, each with the exact value behind what is shown.

A number carries its whole value in `data-v`: scripts sort by it, tests compare it with the
record. Knows no chart.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from bitnet_jax.report.format import show
from bitnet_jax.report.kinds import Figures, Pairs, Table, measure
from bitnet_jax.report.markup import Markup, element, join

# A longer table scrolls in a window of its own, under its head.
TALL = 24
# Of a longer one, the ends: no browser shows all of it, nor does anybody read it.
MOST = 2000
# A longer text is broken over lines.
LONG = 36
# Longer still, it is cut: nobody reads it, and it would bury the rest.
LONGEST = 1000
# Digests are compared by eye: letter below letter.
_DIGEST = re.compile("[0-9a-f]{16,}")


def exact(value: Any) -> str | None:
    """Returns a number as it stands in the record, or None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return repr(value)


def cell(value: Any, name: str = "td", **attributes: Any) -> Markup:
    """Returns one value as a cell: its number exact, its text whole on hover."""
    told = measure(value)
    number = exact(told.value)
    shown = whole = show(told.value)
    if len(whole) > LONGEST:
        shown = f"{whole[: LONGEST // 2]} … {whole[-LONGEST // 2 :]}"
    # What was rounded is whole on hover; what is long may be cut by the page.
    hover = number if number is not None else whole if len(whole) > 24 else None
    if number is not None and number.replace("-", "−") == shown.replace(",", ""):
        hover = None
    unit = element("span", told.unit, class_="unit") if told.unit else None
    note = element("span", told.note, class_="aside") if told.note else None
    kind = "mono" if _DIGEST.fullmatch(shown) else None
    parts = [element("span", shown, data_v=number, title=hover, class_=kind)]
    for more in (unit, note):
        if more is not None:
            parts += [Markup(" "), more]
    return element(name, *parts, **attributes)


def figures(section: Figures) -> Markup:
    """Returns cards."""
    cards = [element("div", element("dt", name), cell(value, "dd")) for name, value in section.rows]
    return element("dl", *cards, class_="figures")


def pairs(section: Pairs) -> Markup:
    """Returns names and values, one a line."""
    rows = [element("div", element("dt", name), cell(value, "dd")) for name, value in section.rows]
    return element("dl", *rows, class_="pairs")


def drawn_table(table: Table, name: str) -> Markup:
    """Returns a table in a frame that scrolls where it is too wide or too tall.

    `name` says to a reader who does not see it which table this is.
    """
    if not table.rows:
        return element("p", "none", class_="muted")
    if len(table.rows) > MOST:
        shown = [*table.rows[: MOST // 2], *table.rows[-MOST // 2 :]]
        words = (
            f"The first and the last {show(MOST // 2)} of {show(len(table.rows))} rows; all of "
            "them stand in the record."
        )
        part = drawn_table(dataclasses.replace(table, rows=shown), name)
        return join([element("p", words, class_="muted"), part])
    numeric = _numeric(table)
    head = element(
        "tr",
        *[
            element("th", column, scope="col", class_="number" if number else None)
            for column, number in zip(table.columns, numeric, strict=True)
        ],
    )
    prose = any(_long(value) for row in table.rows for value in row)
    labels = table.columns if prose and len(table.columns) > 2 else [None] * len(table.columns)
    body = [element("tr", *_row(row, numeric, labels)) for row in table.rows]
    drawn = element(
        "table",
        element("thead", head),
        element("tbody", *body),
        # On a narrow screen rows with prose become cards: each value under its label.
        class_="sortable stack" if labels[0] is not None else "sortable",
    )
    tall = " tall" if len(table.rows) > TALL else ""
    return element(
        "div", drawn, class_=f"frame{tall}", tabindex=0, role="region", aria_label=f"table: {name}"
    )


def _row(row: Sequence[Any], numeric: Sequence[bool], labels: Sequence[str | None]) -> list[Markup]:
    cells = []
    for index, value in enumerate(row):
        kind = "number" if numeric[index] else "text long" if _long(value) else "text"
        head = {} if index else {"name": "th", "scope": "row"}
        cells.append(cell(value, **head, class_=kind, data_label=labels[index]))
    return cells


def _long(value: Any) -> bool:
    return len(show(measure(value).value)) > LONG


def _numeric(table: Table) -> list[bool]:
    """Says of each column whether it holds numbers (and perhaps gaps)."""
    columns = list(zip(*table.rows, strict=True))
    return [
        any(exact(measure(v).value) is not None for v in column)
        and all(measure(v).value is None or exact(measure(v).value) is not None for v in column)
        for column in columns
    ]
