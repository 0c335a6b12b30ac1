"""The picture of an architecture, read from the names and shapes of a model's parameters.

A number in a name is the number of a layer; layers with the same parameters are drawn once.
Knows no family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart

TERNARY, FLOAT = "1", "2"
_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


def place(name: str) -> tuple[str, int | None, str]:
    """Returns ("layers.", 3, "mlp.up_proj") for "layers.3.mlp.up_proj".

    A name without a number is ("norm", None, "").
    """
    found = _NUMBER.search(name)
    if found is None:
        return name, None, ""
    # int() takes no more than some thousand digits; no model has such a layer.
    number = int(found.group()[:18])
    return name[: found.start()], number, name[found.end() :].lstrip(".")


def diagram(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Returns the picture, in the order in which data meets the parameters."""
    blocks: list[dict[str, Any]] = []
    layer: list[tuple[int, list[Mapping[str, Any]]]] = []
    for row in rows:
        _, number, _ = place(row["name"])
        if number is None:
            blocks += _layers(layer)
            layer = []
            blocks.append(_block(row["name"], [row]))
        elif layer and layer[-1][0] == number:
            layer[-1][1].append(row)
        else:
            layer.append((number, [row]))
    blocks += _layers(layer)
    return Chart(
        "diagram",
        "Architecture",
        {"blocks": blocks, "legend": {TERNARY: "ternary", FLOAT: "float"}},
    )


def _layers(layer: list[tuple[int, list[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """Returns a block for each stretch of layers that are alike."""
    blocks: list[dict[str, Any]] = []
    last = None
    for _, rows in layer:
        signature = [(place(r["name"])[2], tuple(r["shape"]), bool(r.get("trits"))) for r in rows]
        if signature == last:
            blocks[-1]["times"] += 1
            continue
        last = signature
        blocks.append({"name": "layer", "times": 1, "blocks": _parts(rows)})
    return blocks


def _parts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the blocks of one layer: what has one first word after the number stands together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = place(row["name"])[2] or row["name"]
        groups.setdefault(name.partition(".")[0], []).append(row)
    return [_block(name, members) for name, members in groups.items()]


def _block(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ternary = any(row.get("trits") for row in rows)
    block = {"name": name, "colour": TERNARY if ternary else FLOAT}
    if len(rows) == 1:
        return {**block, "note": shape_of(rows[0])}
    return {
        **block,
        "ordered": False,
        "blocks": [
            {
                "name": place(row["name"])[2].partition(".")[2] or row["name"],
                "note": shape_of(row),
                "colour": TERNARY if row.get("trits") else FLOAT,
            }
            for row in rows
        ],
    }


def shape_of(row: Mapping[str, Any]) -> str:
    """Returns a parameter's shape as it is read: "2,560 × 6,912"."""
    return " × ".join(f"{size:,}" for size in row["shape"])
