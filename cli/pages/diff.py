"""The page of `bitnet model diff`: what differs, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Figures, Pairs, Section, Table, table_of

# Columns in the order in which people read them; those that no row has are left out.
COLUMNS = ("name", "what", "first", "second", "changed", "of", "at", "ulps", "difference",
           "differing", "shape")  # fmt: skip
# Fewer than this are told by the table alone, and more are no picture.
MOST_BARS = 400


def summary(data: Mapping[str, Any]) -> Pairs:
    """Returns how many things differ in each part."""
    return Pairs([(part, count) for part, count in data["counts"].items()], title="differences")


def differences(data: Mapping[str, Any]) -> list[Section]:
    """Returns a table for each part that differs, and what is stored otherwise."""
    parts: list[Section] = []
    for part in data["counts"]:
        rows = [row for row in data["differences"] if row["part"] == part]
        parts.append(_table(rows, part))
    if data["stored"]:
        parts.append(table_of(data["stored"], title="stored otherwise"))
    return parts


def _table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    known = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    return table_of(rows, known, title=title)


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: verdict, changed trits and codes, all differences, the digests."""
    verdict = "the same model" if data["equal"] else "different"
    sections: list[Section] = [
        Figures([("verdict", verdict), *data["counts"].items()]),
    ]
    for what in ("trits", "codes"):
        changed = [row for row in data["differences"] if row["what"] == what]
        if 0 < len(changed) <= MOST_BARS:
            sections.append(_changed(changed, what))
    sections += differences(data)
    rows = [
        [name.replace("_", " and "), one, data["digest"]["second"][name]]
        for name, one in data["digest"]["first"].items()
    ]
    return [*sections, Table(["digest of", "first", "second"], rows, title="Digests")]


def _changed(changed: Sequence[Mapping[str, Any]], what: str) -> Chart:
    return Chart(
        "bars",
        f"{what.capitalize()} that changed",
        {
            "categories": [row["name"] for row in changed],
            "series": [{"name": "changed", "values": [row["changed"] for row in changed]}],
            "axis": what,
            "category_axis": "matrix",
            "data": False,
        },
    )
