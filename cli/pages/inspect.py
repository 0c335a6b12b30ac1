"""The page of `bitnet model inspect`: what is in a model, in pictures.

Takes the record alone. Knows no family: what it shows of a model is in the names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, Table, flat, table_of
from .architecture import diagram, place, shape_of

TRITS = (("minus", "−1", "1"), ("zero", "0", "neutral"), ("plus", "+1", "2"))
# Above this many values a picture's own table only repeats the long one below.
FEW = 64


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, where it runs, the architecture, the weights."""
    layers = data["layers"]
    ternary = [row for row in layers if row.get("trits")]
    sections: list[Section] = [_figures(data), _runs_in(data["runs_in"]), diagram(layers)]
    if ternary:
        sections.append(_shares(ternary))
        sections += _by_layer(ternary)
        sections.append(_matrices(ternary))
    rest = [row for row in layers if not row.get("trits")]
    if rest:
        rows = [[row["name"], shape_of(row), _stored_as(row)] for row in rest]
        sections.append(Table(["name", "shape", "stored as"], rows, "Other parameters"))
    sections.append(Pairs(flat(data["architecture"]), title="Architecture, as the file says"))
    digest = [(name.replace("_", " and "), value) for name, value in data["digest"].items()]
    sections.append(Pairs(digest, title="Digest: equal in every format"))
    return sections


def _figures(data: Mapping[str, Any]) -> Figures:
    stored = Measure(data.get("file_bytes"), "bytes", "in the file")
    bits = Measure(data["bits_per_weight"], "bits per quantized weight", "in the file")
    rows: list[tuple[str, Any]] = [
        ("parameters", data["parameters"]),
        ("of them ternary", data["ternary_parameters"]),
        ("packed", Measure(data["packed_bits_per_weight"], "bits per weight")),
        ("stored", stored),
        ("stored of each", bits),
        ("memory for weights", Measure(data.get("memory_bytes"), "bytes", "at run time")),
        ("format", Measure(data.get("format"), "", str(data.get("encoding") or ""))),
    ]
    shares = data.get("trits") or {}
    rows += [
        (f"weights that are {spelled}", shares[name])
        for name, spelled, _ in TRITS
        if name in shares
    ]
    return Figures(rows)


def _runs_in(rows: Sequence[Mapping[str, Any]]) -> Table:
    return table_of(rows, ("engine", "how", "reason", "seen"), title="Where it will run")


def _shares(ternary: Sequence[Mapping[str, Any]]) -> Chart:
    return Chart(
        "bars",
        "Shares of −1, 0 and +1 in each matrix",
        {
            "categories": [row["name"] for row in ternary],
            "series": [
                {
                    "name": spelled,
                    "values": [row["trits"][key] for row in ternary],
                    "colour": colour,
                }
                for key, spelled, colour in TRITS
            ],
            "stacked": True,
            "axis": "share of the matrix's weights",
            "category_axis": "matrix, by its number in the table below",
            "data": False,
        },
    )


def _matrices(ternary: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["name", "shape", *(f"share of {spelled}" for _, spelled, _ in TRITS), "scale"]
    several = any(len(set(row.get("scale_spread") or ())) > 1 for row in ternary)
    columns += ["least scale", "greatest scale"] if several else []
    columns += ["bits per weight", "stored as"]
    rows = [
        [
            row["name"],
            shape_of(row),
            *(row["trits"][key] for key, _, _ in TRITS),
            row["scale"],
            *(row["scale_spread"] if several else ()),
            row.get("bits_per_weight"),
            _stored_as(row),
        ]
        for row in ternary
    ]
    return Table(columns, rows, "Ternary matrices")


def _stored_as(row: Mapping[str, Any]) -> str:
    """What holds it in the file, in the format's own word; of one in no file, its type."""
    return str(row.get("stored_as") or row["dtype"])


def _by_layer(ternary: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Returns shades of what differs between layers; none for a model with one."""
    places = [place(row["name"]) for row in ternary]
    numbers = sorted({number for _, number, _ in places if number is not None})
    if len(numbers) < 2:
        return []
    kinds = list(dict.fromkeys(f"{a}{b}" for a, number, b in places if number is not None))
    found = {
        (f"{before}{after}", number): row
        for (before, number, after), row in zip(places, ternary, strict=True)
    }
    # The name before the number is the same for all, mostly: it tells nothing.
    stems = {before for before, number, _ in places if number is not None}
    names = [kind.removeprefix(next(iter(stems))) if len(stems) == 1 else kind for kind in kinds]
    charts: list[Section] = []
    for title, axis, read in (
        ("Zeros by layer", "share of zeros", lambda row: row["trits"]["zero"]),
        ("Scale by layer", "scale (of several: their median)", lambda row: row["scale"]),
    ):
        grid = [
            [read(found[kind, n]) if (kind, n) in found else None for n in numbers]
            for kind in kinds
        ]
        fields = {
            "rows": names,
            "columns": [str(number) for number in numbers],
            "values": grid,
            "axis": axis,
            "column_axis": "layer",
            "data": len(ternary) <= FEW,
        }
        charts.append(Chart("heat", title, fields))
    return charts
