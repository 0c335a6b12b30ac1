"""The page of `bitnet model validate`: how many findings there are, and each with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Chart, Figures, Pairs, Section, Text, table_of

COLOUR = {"error": "bad", "warning": "2"}
COLUMNS = ("severity", "code", "tensor", "message", "fix")


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: counts, findings by code, all findings, the digest."""
    findings, counts = data["findings"], data["counts"]
    sections: list[Section] = [Figures([(f"{s}s", counts["severity"][s]) for s in COLOUR])]
    if findings:
        sections.append(_by_code(counts["code"]))
        known = [name for name in COLUMNS if any(name in finding for finding in findings)]
        sections.append(table_of(findings, known, title="Findings"))
    else:
        sections.append(Text("Nothing to mend.", title="Findings"))
    if data.get("digest"):
        digest = [(name.replace("_", " and "), value) for name, value in data["digest"].items()]
        sections.append(Pairs(digest, title="Digest: equal in every format"))
    return sections


def _by_code(codes: Mapping[str, Mapping[str, int]]) -> Chart:
    names = sorted(codes, key=lambda code: (-sum(codes[code].values()), code))
    series = [
        {
            "name": f"{severity}s",
            "values": [codes[code][severity] for code in names],
            "colour": COLOUR[severity],
        }
        for severity in COLOUR
        if any(codes[code][severity] for code in names)
    ]
    return Chart(
        "bars",
        "Findings by code",
        {
            "categories": names,
            "series": series,
            "stacked": True,
            "axis": "findings",
            "category_axis": "code",
        },
    )
