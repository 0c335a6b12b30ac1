"""The page of `bitnet bench run`: speeds by batch, the roofline, what ran, on which machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, Table, flat, table_of

COLUMNS = (
    "phase", "batch", "tokens", "tokens/s", "low", "high", "times", "bytes/token",
    "of the bandwidth", "of the int8 peak", "J/token", "kernel",
)  # fmt: skip
PHASES = (("prefill", "1"), ("decode", "2"))
PROGRAMS = ("phase", "batch", "kernel", "kernel_calls", "weight_bytes", "float_bytes")
MORE = ("temp_bytes", "largest_buffer_bytes", "compile_seconds", "hlo_sha256")


def rows(results: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[list[Any]]]:
    """Returns the columns and rows of the results; energy only where it was read."""
    table = []
    for row in results:
        speed = row["tokens_per_second"]
        table.append(
            [
                *(row[name] for name in ("phase", "batch", "tokens")),
                *(speed[name] for name in ("median", "low", "high", "count")),
                *(row[name] for name in ("bytes_per_token", "bandwidth_share", "int8_share")),
                row["joules_per_token"],
                row["kernel"],
            ]
        )
    if all(row["joules_per_token"] is None for row in results):
        place = COLUMNS.index("J/token")
        return COLUMNS[:place] + COLUMNS[place + 1 :], [r[:place] + r[place + 1 :] for r in table]
    return COLUMNS, table


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: limits, speeds, roofline, programs, machine."""
    results = data["results"]
    sections: list[Section] = [
        Figures(
            [
                ("memory read", Measure(data["bandwidth_gb_s"], "GB/s")),
                ("int8 products", Measure(data["int8_peak_tops"], "TOP/s")),
                ("profile", data["profile"]),
                ("kernel", data["receipt"]["kernel"]),
                ("packed weights held", Measure(data["receipt"]["weight_bytes"], "bytes")),
                ("weights unpacked", data["receipt"]["unpacked_weights"]),
            ]
        ),
        Table(*rows(results), "Speed, with the 95 % interval of the median"),
        *(_speed(results, phase, colour) for phase, colour in PHASES),
    ]
    if data.get("roofline"):
        sections.append(_roofline(data["roofline"]))
    if data.get("consistency"):
        sections.append(Pairs(flat(data["consistency"]), title="Token times and the clock"))
    programs = data["receipt"]["programs"]
    sections.append(table_of(programs, (*PROGRAMS, *MORE), title="Programs that ran"))
    tried = data["bandwidth"]["tried"]
    sections.append(table_of(tried, title="Ways to read memory that were tried"))
    sections.append(Pairs(flat(data["settings"]), title="Settings"))
    sections.append(Pairs(flat(data["energy"]), title="Energy"))
    sections.append(Pairs(flat(data["machine"]), title="Machine"))
    return sections


def _speed(results: Sequence[Mapping[str, Any]], phase: str, colour: str) -> Chart:
    own = [row for row in results if row["phase"] == phase]
    speeds = [row["tokens_per_second"] for row in own]
    return Chart(
        "lines",
        f"{phase.capitalize()}: tokens per second by batch",
        {
            "series": [
                {
                    "name": phase,
                    "x": [row["batch"] for row in own],
                    "y": [speed["median"] for speed in speeds],
                    "low": [speed["low"] for speed in speeds],
                    "high": [speed["high"] for speed in speeds],
                    "colour": colour,
                }
            ],
            "x_axis": "sequences at once",
            "y_axis": "tokens per second",
            "data": False,
        },
    )


def _roofline(roofline: Mapping[str, Any]) -> Chart:
    groups = []
    for phase, colour in PHASES:
        points = [
            {"name": point["name"], "x": point["operations_per_byte"], "y": point["tops"]}
            for point in roofline["points"]
            if point["name"].startswith(phase)
        ]
        if points:
            groups.append({"name": phase, "points": points, "colour": colour})
    return Chart(
        "scatter",
        "Roofline: what memory and int8 arithmetic allow",
        {
            "groups": groups,
            "bounds": [
                {
                    "name": "this machine",
                    "x": roofline["operations_per_byte"],
                    "y": roofline["limit_tops"],
                }
            ],
            "x_axis": "int8 operations per byte read",
            "y_axis": "int8 operations per second",
            "y_unit": "TOP/s",
            "note": "A point on the line is as fast as this machine can be.",
        },
    )
