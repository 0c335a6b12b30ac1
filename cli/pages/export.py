"""The page of `bitnet model export`: what was written, and what each step changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Pairs, Section, Table, table_of
from .convert import what_was_done


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, digests before and after, the steps, the files."""
    names = ("source", "source_format", "format", "encoding", "runtime", "receipt", "allowed")
    sections: list[Section] = [
        *what_was_done(data, names),
        table_of(data["passes"], title="Largest logit difference after each step"),
        Table(["file"], [[path] for path in data["outputs"]], title="Written"),
    ]
    if data.get("parity"):
        parity = Pairs(list(data["parity"].items()), title="Beside our engine")
        sections.append(parity)
    if data.get("by_piece"):
        pieces = Pairs(list(data["by_piece"].items()), title="Each piece, given our values")
        sections.append(pieces)
    if data.get("scales_changed"):
        sections.append(table_of(data["scales_changed"], title="Scales that changed"))
    if data.get("findings"):
        sections.append(table_of(data["findings"], title="Findings in the source"))
    return sections
