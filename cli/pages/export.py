"""The page of `bitnet model export`: what was written, and what each step changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Section, Table, table_of
from .convert import what_was_done, what_was_measured


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, digests before and after, the steps, the files."""
    names = ("source", "source_format", "format", "encoding", "runtime", "receipt", "allowed")
    sections: list[Section] = [
        *what_was_done(data, names),
        table_of(data["passes"], title="Largest logit difference after each step"),
        Table(["file"], [[path] for path in data["outputs"]], title="Written"),
        *what_was_measured(data),
    ]
    if data.get("scales_changed"):
        sections.append(table_of(data["scales_changed"], title="Scales that changed"))
    if data.get("findings"):
        sections.append(table_of(data["findings"], title="Findings in the source"))
    return sections
