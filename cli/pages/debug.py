"""The page of `bitnet dev debug`: where runs part, and every op's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Chart, Figures, Pairs, Section, Table, table_of

OPS = ("phase", "position", "op", "shape", "dtype", "min", "max", "mean", "absmean", "nan",
       "digest")  # fmt: skip
PARTED = ("phase", "position", "op", "why", "seen_at", "difference", "at", "first", "second",
          "differing", "only_in_first", "only_in_second")  # fmt: skip


def summary(data: Mapping[str, Any]) -> Pairs:
    """Returns what was run, and the verdict."""
    return Pairs(_figures(data))


def _figures(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    first, odd = data["first_divergence"], data["not_finite"]
    verdict = "none" if first is None else f"{first['op']} ({first['phase']})"
    return [
        ("tokens", data["token_count"]),
        ("of them decoded one at a time", data["decode"]),
        ("ops", data["op_count"]),
        ("first op that is no number", "none" if odd is None else odd["op"]),
        ("against", data["against"]),
        ("first op that diverges", verdict),
        ("next token", data["next_token"]),
    ]


def divergences(data: Mapping[str, Any]) -> list[Section]:
    """Returns the tables of where the runs part, and of settings that differ."""
    sections: list[Section] = []
    for name, title in (
        ("divergences", f"where {data['against']} parts from it"),
        ("cache_divergences", "where it parts from its own run without a cache"),
    ):
        if data[name]:
            known = [c for c in PARTED if any(row.get(c) not in (None, []) for row in data[name])]
            sections.append(table_of(data[name], known, title=title))
    if data["settings_differ"]:
        sections.append(table_of(data["settings_differ"], title="settings of ops that differ"))
    return sections


def activations(data: Mapping[str, Any]) -> Table:
    """Returns every op's figures."""
    return table_of(data["ops"], OPS, title="activations")


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: verdict, where runs part, sizes along the model, all figures."""
    sections: list[Section] = [Figures(_figures(data)), *divergences(data), _sizes(data)]
    return [*sections, activations(data)]


def _sizes(data: Mapping[str, Any]) -> Chart:
    rows = [row for row in data["ops"] if row["phase"] == "prefill" and row["kind"] != "output"]
    return Chart(
        "bars",
        "Mean size of each op's results, in prefill",
        {
            "categories": [row["op"] for row in rows],
            "series": [{"name": "mean of |x|", "values": [row["absmean"] for row in rows]}],
            "axis": "mean of |x|",
            "category_axis": "op, in the order in which they run",
            "data": False,
        },
    )
