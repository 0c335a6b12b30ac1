"""The page of `bitnet bench validate`: each check, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, flat, table_of

COLUMNS = ("name", "passed", "message", "fix", "seconds")


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: the verdict, every check, the ways to read memory, the machine."""
    checks = data["checks"]
    sections: list[Section] = [
        Figures(
            [
                ("passed", data["passed"]),
                ("did not hold", data["failed"]),
                ("no time for", data["skipped"]),
                ("budget", Measure(data["budget_seconds"], "s")),
                ("took", Measure(data["seconds"], "s")),
            ]
        ),
        table_of(checks, COLUMNS, title="Checks"),
        Chart(
            "bars",
            "Seconds by check",
            {
                "categories": [row["name"] for row in checks],
                "series": [{"name": "seconds", "values": [row["seconds"] for row in checks]}],
                "axis": "seconds",
                "category_axis": "check",
                "data": False,
            },
        ),
    ]
    for row in checks:
        tried = (row.get("found") or {}).get("tried")
        if tried:
            sections.append(table_of(tried, title=f"Ways to read memory: {row['name']}"))
    return [*sections, Pairs(flat(data["machine"]), title="Machine")]
