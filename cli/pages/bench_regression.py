"""The page of `bitnet bench regression`: each row's ratio with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Chart, Figures, Section, table_of

COLUMNS = (
    "name", "verdict", "baseline", "current", "ratio", "ratio_interval", "beside",
    "beside_ratio", "beside_interval", "kernels",
)  # fmt: skip


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: the verdict, the ratios, every comparison."""
    rows = data["comparisons"]
    return [
        Figures(
            [
                ("passed", data["passed"]),
                ("slower", data["slower"]),
                ("confidence of each interval", data["confidence"]),
            ]
        ),
        Chart(
            "lines",
            "Current over baseline: tokens per second",
            {
                "series": [
                    {
                        "name": "ratio",
                        "x": list(range(1, len(rows) + 1)),
                        "y": [row["ratio"] for row in rows],
                        "low": [row["ratio_interval"][0] for row in rows],
                        "high": [row["ratio_interval"][1] for row in rows],
                        "colour": "1",
                    }
                ],
                "x_axis": "row of the table below",
                "y_axis": "ratio; below one is slower",
                "data": False,
            },
        ),
        table_of(rows, COLUMNS, title="Comparisons"),
    ]
