"""The page of `bitnet bench profile`: time by layer and op, instructions, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, flat, table_of

LAYERS = ("layer", "seconds", "share", "count", "bytes_read", "bytes_written")
OPS = ("op", "seconds", "share", "count", "bytes_read", "bytes_written")
SLOWEST = ("name", "layer", "op", "weights", "seconds", "gb_s", "shape")
MEMORY = ("name", "layer", "op", "bytes_written", "shape")


def kinds(memory: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the bytes of each kind of buffer, as pairs."""
    return [(key.removesuffix("_bytes"), v) for key, v in memory.items() if key.endswith("_bytes")]


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: one run, layers, ops, instructions, cost, memory, machine."""
    sections: list[Section] = [
        Figures(
            [
                ("one run", Measure(data["wall_seconds"]["median"], "s", data["phase"])),
                ("in instructions", Measure(data["instruction_seconds"], "s")),
                ("int8 products", Measure(data["cost"]["int8_tops"], "TOP/s")),
                ("kernel", data["receipt"]["kernel"]),
            ]
        )
    ]
    if data["layers"]:
        sections += [
            _bars("Seconds by layer", data["layers"], "layer"),
            table_of(data["layers"], LAYERS, title="Layers"),
            _bars("Seconds by op", data["ops"], "op"),
            table_of(data["ops"], OPS, title="Ops"),
            table_of(data["instructions"], SLOWEST, title="Instructions, the slowest first"),
        ]
    sections.append(Pairs(flat(data["cost"]), title="What XLA reckons, beside the measured time"))
    if "memory" in data:
        sections.append(Pairs(kinds(data["memory"]), title="Memory, in bytes"))
        sections.append(table_of(data["memory"]["largest"], MEMORY, title="The largest results"))
    if data["trace"]:
        sections.append(Pairs([("files", data["trace"])], title="Trace"))
    return [*sections, Pairs(flat(data["machine"]), title="Machine")]


def _bars(title: str, rows: Sequence[Mapping[str, Any]], key: str) -> Chart:
    return Chart(
        "bars",
        title,
        {
            "categories": [row[key] for row in rows],
            "series": [{"name": "seconds", "values": [row["seconds"] for row in rows]}],
            "axis": "seconds in one run",
            "category_axis": key,
            "data": False,
        },
    )
