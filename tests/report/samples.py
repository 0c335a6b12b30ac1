"""Sections of every kind, for models of any number of layers and names of any ugliness."""

from __future__ import annotations

import math

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
UGLY = (
    "<script>document.title='owned'</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"onmouseover='alert(1)' & &amp; <!-- -->",
    "x\u202egnp.exe\x1b[2J\x00\ud800\ufffe",
    "层." * 60 + "∑",
    "a_very_long_name_without_any_place_to_break_it_" * 6,
    "",
    "line\nline",
)


def name(layer: int, kind: str) -> str:
    return f"layers.{layer}.{kind}"


def record(layers: int, names: tuple[str, ...] = ()) -> dict:
    """A record with a row per matrix, as `model inspect` has."""
    called = [name(layer, kind) for layer in range(layers) for kind in KINDS]
    called[: len(names)] = names
    rows = []
    for index, label in enumerate(called):
        zero = 0.3 + 0.01 * (index % 7)
        minus = (1 - zero) / 2 - 0.001 * (index % 5)
        trits = {"minus": minus, "zero": zero, "plus": 1 - zero - minus}
        rows.append({"name": label, "shape": [2560, 640 * (1 + index % 3)], "trits": trits})
    curve = [{"step": step, "loss": 4 + 3 * math.exp(-step / 20)} for step in range(60)]
    for row in curve:
        row |= {"low": row["loss"] - 0.25, "high": row["loss"] + 0.3}
    return {
        "parameters": 2_412_820_480,
        "bits": 2.0312345678,
        "tiny": 1.25e-9,
        "negative": -3.5,
        "unknown": None,
        "layers": rows,
        "curve": curve,
        "entropy": 6.21,
        "speed": [{"batch": 1, "ours": 31.25, "theirs": 22.5}, {"batch": 16, "ours": 390.125}],
        "edges": [0.0, 0.5, 1.0, 1.5],
        "counts": [3, 12, 5],
        "roofline": [
            {"name": "decode", "x": 0.9, "y": 4e9},
            {"name": "prefill", "x": 200, "y": 3e11},
        ],
        "roof": {"x": [0.1, 20, 1000], "y": [2e9, 4e11, 4e11]},
    }


def sections(data: dict, layers: int) -> list[dict]:
    """A section of every kind of that record."""
    rows, curve = data["layers"], data["curve"]
    steps = [row["step"] for row in curve]
    names = [row["name"] for row in rows]
    per = len(KINDS)
    return [
        {
            "kind": "figures",
            "rows": [
                ["parameters", data["parameters"]],
                ["packed", {"value": data["bits"], "unit": "bits per weight", "note": "stored"}],
                ["tiny", data["tiny"]],
                ["unknown", data["unknown"]],
            ],
        },
        {"kind": "paragraph", "title": "Words", "text": "First.\n\nSecond."},
        {"kind": "paragraph", "title": "Code", "text": "def f(x):\n    return x < 1", "code": True},
        {"kind": "pairs", "title": "Pairs", "rows": [["negative", data["negative"]], ["ok", True]]},
        {
            "kind": "bars",
            "title": "Shares",
            "categories": names,
            "series": [
                {"name": key, "values": [row["trits"][key] for row in rows]}
                for key in ("minus", "zero", "plus")
            ],
            "stacked": True,
            "axis": "share",
        },
        {
            "kind": "bars",
            "title": "Speed",
            "categories": [f"batch {row['batch']}" for row in data["speed"]],
            "series": [
                {"name": key, "values": [row.get(key) for row in data["speed"]]}
                for key in ("ours", "theirs")
            ],
            "axis": "decode",
            "unit": "tokens/s",
        },
        {
            "kind": "heat",
            "title": "Zeros",
            "rows": list(KINDS),
            "columns": [str(layer) for layer in range(layers)],
            "values": [
                [rows[layer * per + kind]["trits"]["zero"] for layer in range(layers)]
                for kind in range(per)
            ],
            "axis": "share of zeros",
            "column_axis": "layer",
        },
        {
            "kind": "lines",
            "title": "Loss",
            "series": [
                {
                    "name": "training",
                    "x": steps,
                    "y": [row["loss"] for row in curve],
                    "low": [row["low"] for row in curve],
                    "high": [row["high"] for row in curve],
                }
            ],
            "marks": [{"name": "unigram entropy", "value": data["entropy"]}],
            "x_axis": "step",
            "y_axis": "loss",
            "y_unit": "nats per token",
        },
        {
            "kind": "histogram",
            "title": "Scales",
            "edges": data["edges"],
            "counts": data["counts"],
            "axis": "scale",
        },
        {
            "kind": "scatter",
            "title": "Roofline",
            "groups": [{"name": row["name"], "points": [row]} for row in data["roofline"]],
            "bounds": [{"name": "roof", **data["roof"]}],
            "x_axis": "intensity",
            "x_unit": "op/byte",
            "y_axis": "speed",
            "y_unit": "op/s",
        },
        {
            "kind": "diagram",
            "title": "Architecture",
            "blocks": [
                {"name": "embedding", "note": "float", "colour": "2"},
                {
                    "name": "layer",
                    "times": layers,
                    "blocks": [
                        {"name": "attention", "colour": "1"},
                        {
                            "name": "mlp",
                            "ordered": False,
                            "blocks": [{"name": n} for n in names[:3]],
                        },
                    ],
                },
            ],
            "legend": {"1": "ternary", "2": "float"},
        },
        {
            "kind": "table",
            "title": "Matrices",
            "columns": ["name", "shape", "minus", "zero", "plus"],
            "rows": [
                [row["name"], row["shape"], *(row["trits"][k] for k in ("minus", "zero", "plus"))]
                for row in rows
            ],
        },
        {"kind": "table", "title": "Nothing", "columns": ["a", "b"], "rows": []},
    ]


def page(layers: int, names: tuple[str, ...] = (), **more) -> str:
    from bitnet_jax.report.page import report_page

    data = record(layers, names)
    title = names[0] if names else f"model-of-{layers}.bitnet"
    return report_page(title, sections(data, layers), {"data": data}, command="test", **more)
