"""The page of `bitnet model convert`: what was written, and the proof that it is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, Table, table_of

# More changed scales than this are told by the table alone.
MOST_BARS = 400


def what_was_done(data: Mapping[str, Any], names: Sequence[str]) -> list[Section]:
    """The figures of what was written, its digests, and what the record says under `names`."""
    difference = Measure(data.get("max_logit_difference"), "", "of the largest logit")
    return [
        Figures(
            [
                ("weights", "the same trits" if same(data, "trits") else "DIFFERENT trits"),
                ("scales", "the same" if same(data, "trits_scales") else "changed, listed below"),
                ("largest logit difference", difference),
            ]
        ),
        digests(data),
        Pairs(
            [(name.replace("_", " "), data[name]) for name in names if data.get(name)],
            title="What was done",
        ),
    ]


def what_was_measured(data: Mapping[str, Any]) -> list[Section]:
    """What another runtime made of a few tokens, where one was asked."""
    titles = {"parity": "Beside our engine", "by_piece": "Each piece, given our values"}
    return [
        Pairs(list(data[name].items()), title=title)
        for name, title in titles.items()
        if data.get(name)
    ]


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, digests before and after, changed scales, findings."""
    changed = data.get("scales_changed") or []
    names = ("source", "source_format", "format", "encoding", "receipt", "allowed")
    sections: list[Section] = [
        *what_was_done(data, names),
        Table(["file"], [[path] for path in data["outputs"]], title="Written"),
        *what_was_measured(data),
    ]
    if changed:
        if len(changed) <= MOST_BARS:
            sections.append(_ulps(changed))
        sections.append(table_of(changed, title="Scales that changed"))
    if data.get("findings"):
        sections.append(table_of(data["findings"], title="Findings in the source"))
    return sections


def same(data: Mapping[str, Any], name: str) -> bool:
    return data["digest_before"][name] == data["digest_after"][name]


def digests(data: Mapping[str, Any]) -> Table:
    rows = [
        [name.replace("_", " and "), before, data["digest_after"][name], same(data, name)]
        for name, before in data["digest_before"].items()
    ]
    return Table(["digest of", "before", "after", "equal"], rows, title="Digests")


def _ulps(changed: list[Mapping[str, Any]]) -> Chart:
    return Chart(
        "bars",
        "How far scales moved",
        {
            "categories": [row["name"] for row in changed],
            "series": [{"name": "change", "values": [row["ulps"] for row in changed]}],
            "axis": "change",
            "unit": "ULP",
            "category_axis": "matrix, by its number in the table below",
            "data": False,
        },
    )
