"""The page of `bitnet model export`: what was written, and what each step changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Figures, Measure, Pairs, Section, Table, table_of
from .convert import digests, same


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, digests before and after, the steps, the files."""
    difference = Measure(data.get("max_logit_difference"), "", "of the largest logit")
    sections: list[Section] = [
        Figures(
            [
                ("weights", "the same trits" if same(data, "trits") else "DIFFERENT trits"),
                ("scales", "the same" if same(data, "trits_scales") else "changed, listed below"),
                ("largest logit difference", difference),
            ]
        ),
        digests(data),
        Pairs(
            [
                (name.replace("_", " "), data[name])
                for name in ("source", "source_format", "format", "encoding", "runtime", "allowed")
                if data.get(name)
            ],
            title="What was done",
        ),
        table_of(data["passes"], title="Largest logit difference after each step"),
        Table(["file"], [[path] for path in data["outputs"]], title="Written"),
    ]
    if data.get("parity"):
        parity = Pairs(list(data["parity"].items()), title="Beside our engine")
        sections.append(parity)
    if data.get("scales_changed"):
        sections.append(table_of(data["scales_changed"], title="Scales that changed"))
    if data.get("findings"):
        sections.append(table_of(data["findings"], title="Findings in the source"))
    return sections
