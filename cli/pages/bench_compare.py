"""The page of `bitnet bench compare`: who ran, and speeds side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Pairs, Section, flat, table_of

COLUMNS = (
    "name", "phase", "batch", "tokens/s", "low", "high", "latency, ms", "speedup",
    "speedup_interval", "differs", "rounds",
)  # fmt: skip


def rows(results: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[list[Any]]]:
    """Returns the columns and rows of the results, without those that were not asked for."""
    table = []
    for row in results:
        speed = row.get("tokens_per_second") or {}
        latency = (row.get("latency_seconds") or {}).get("median")
        table.append(
            [
                *(row[name] for name in ("name", "phase", "batch")),
                *(speed.get(name) for name in ("median", "low", "high")),
                None if latency is None else latency * 1e3,
                *(row.get(name) for name in ("speedup", "speedup_interval", "differs")),
                row["rounds"],
            ]
        )
    kept = [place for place in range(len(COLUMNS)) if any(r[place] is not None for r in table)]
    if not any("speedup" in row for row in results):
        return COLUMNS[:0], []
    return tuple(COLUMNS[p] for p in kept), [[r[p] for p in kept] for r in table]


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: contestants, a picture for each phase and batch, all results."""
    sections: list[Section] = [table_of(data["contestants"], title="Contestants")]
    results = data["results"]
    if any("tokens_per_second" in row for row in results):
        sections += [_speed(results, phase) for phase in ("prefill", "decode")]
    timed = [row for row in results if "speedup" in row]
    if timed:
        sections.append(table_of(timed, title="Results"))
    return [
        *sections,
        Pairs(flat(data["settings"]), title="Settings"),
        Pairs(flat(data["machine"]), title="Machine"),
    ]


def _speed(results: Sequence[Mapping[str, Any]], phase: str) -> Chart:
    own = [row for row in results if row["phase"] == phase]
    names = list(dict.fromkeys(row["name"] for row in own))
    batches = sorted({row["batch"] for row in own})
    speeds = {(r["name"], r["batch"]): r["tokens_per_second"]["median"] for r in own}
    return Chart(
        "bars",
        f"{phase.capitalize()}: tokens per second",
        {
            "categories": [f"batch {batch}" for batch in batches],
            "series": [
                {"name": name, "values": [speeds[name, batch] for batch in batches]}
                for name in names
            ],
            "axis": "tokens per second",
            "category_axis": "sequences at once",
            "data": False,
        },
    )
