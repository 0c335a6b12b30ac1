"""The page of `bitnet model compare`: the table of measures, and pictures of what they sum up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Section, Table, table_of
from .bench_compare import page as bench_page

# More matrices than this are told by the table alone.
MOST_BARS = 400


def measures(data: Mapping[str, Any]) -> Table:
    """Returns the one table: a row for each measure."""
    rows = [
        [row["measure"], row["first"], row["second"], row["compared"], row["unit"]]
        for row in data["table"]
    ]
    return Table(["measure", "first", "second", "compared", "unit"], rows)


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: measures, pictures, tensors, words, what was not compared."""
    sections: list[Section] = [measures(data)]
    ternary = [row for row in data["tensors"] if row["trits"]]
    if 0 < len(ternary) <= MOST_BARS:
        sections.append(_agreement(ternary))
    if data.get("size"):
        sections.append(_sizes(data))
    sections.append(table_of(data["tensors"], title="Tensors"))
    for name, title in (("words", "Words that differ"), ("not_compared", "Not compared")):
        if data[name]:
            sections.append(table_of(data[name], title=title))
    if data.get("speed"):
        sections += bench_page(data["speed"])
    return sections


def _agreement(ternary: Sequence[Mapping[str, Any]]) -> Chart:
    return Chart(
        "bars",
        "Trits that agree",
        {
            "categories": [row["name"] for row in ternary],
            "series": [{"name": "agreement", "values": [row["agreement"] for row in ternary]}],
            "axis": "share of the matrix's trits",
            "category_axis": "matrix",
            "data": False,
        },
    )


def _sizes(data: Mapping[str, Any]) -> Chart:
    names = ["first", "second"]
    kinds = (("file_bytes", "in files"), ("memory_bytes", "weights in memory"))
    return Chart(
        "bars",
        "Size",
        {
            "categories": [words for _, words in kinds],
            "series": [
                {"name": name, "values": [row[key] for key, _ in kinds]}
                for name, row in zip(names, data["size"], strict=True)
            ],
            "axis": "bytes",
            "category_axis": "where",
            "data": False,
        },
    )
