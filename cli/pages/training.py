"""The pages of `bitnet train` and `bitnet quickstart`: the course of a run, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, Table, Text, flat

NATS = "nats per token"
# Shown as pictures; the terminal leaves them out.
CURVES = ("curve", "heldout_curve")


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections of a run: figures, its course, everything else in the record."""
    shown = {*CURVES, "digest", "corpus"}
    rest = {name: value for name, value in data.items() if name not in shown}
    return [
        Figures(
            [
                ("held-out loss", Measure(data.get("heldout_loss"), NATS)),
                (
                    "unigram entropy",
                    Measure(data.get("unigram_entropy"), NATS, "what counting words reaches"),
                ),
                ("training loss", Measure(data.get("loss"), NATS, "mean of the last steps")),
                ("speed", Measure(data.get("tokens_per_second"), "tokens/s", "median step")),
                ("steps", data.get("step")),
                ("tokens", data.get("tokens")),
            ]
        ),
        *course(data),
        Pairs(flat(data.get("digest") or {}), title="Digest of the model"),
        Pairs(flat(data.get("corpus") or {}), title="Text"),
        Pairs(flat(rest), title="Run"),
    ]


def without_curves(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record less what is for pictures."""
    return {name: value for name, value in data.items() if name not in CURVES}


def course(data: Mapping[str, Any]) -> list[Section]:
    """Returns the charts of a run: loss, rate, and λ where it moves."""
    curve = data.get("curve") or []
    if not curve:
        return []
    steps = [row["step"] for row in curve]
    heldout = data.get("heldout_curve") or []
    series = [
        {
            "name": "training: mean, least and greatest of neighbouring steps",
            "x": steps,
            "y": [row["loss"] for row in curve],
            "low": [row["loss_low"] for row in curve],
            "high": [row["loss_high"] for row in curve],
        }
    ]
    if heldout:
        series.append(
            {
                "name": "held-out text",
                "x": [row["step"] for row in heldout],
                "y": [row["heldout_loss"] for row in heldout],
            }
        )
    marks = []
    if data.get("unigram_entropy") is not None:
        marks.append({"name": "unigram entropy", "value": data["unigram_entropy"]})
    loss = {
        "series": series,
        "marks": marks,
        "x_axis": "step",
        "y_axis": "loss",
        "y_unit": NATS,
    }
    charts: list[Section] = [Chart("lines", "Loss", loss)]
    for name, title, axis in (
        ("learning_rate", "Learning rate", "learning rate"),
        ("lam", "λ: how far the weights are ternary", "λ"),
    ):
        values = [row.get(name) for row in curve]
        if len({value for value in values if value is not None}) > 1:
            line = {"name": axis, "x": steps, "y": values}
            charts.append(
                Chart("lines", title, {"series": [line], "x_axis": "step", "y_axis": axis})
            )
    return charts


def quickstart(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections of a quickstart: the proof stands before the course."""
    digests = data["digest"]
    same = len({(v["trits"], v["trits_scales"]) for v in digests.values()}) == 1
    rest = ("kernel", "kernel_reason", "seconds", "seconds_total", "parity_tokens", "files")
    sections: list[Section] = [
        Figures(
            [
                ("held-out loss", Measure(data["heldout_loss"], NATS)),
                (
                    "unigram entropy",
                    Measure(data["unigram_entropy"], NATS, "what counting words reaches"),
                ),
                ("decode", Measure(data["decode_tokens_per_second"], "tokens/s", data["kernel"])),
                ("packed", Measure(data["bits_per_weight"], "bits per weight")),
                ("parameters", data.get("parameters")),
                ("model file", Measure(data.get("file_bytes"), "bytes")),
            ]
        ),
        Table(
            ["taken from", "trits", "trits and scales"],
            [[place, value["trits"], value["trits_scales"]] for place, value in digests.items()],
            title="Training, file and kernel hold the same weights"
            if same
            else "Training, file and kernel DIFFER",
        ),
        Pairs(
            [
                ("largest logit difference", data["max_logit_difference"]),
                ("median logit difference", data["median_logit_difference"]),
                ("top-1 agreement", data["top1_agreement"]),
                *(
                    (f"transformers: {name.replace('_', ' ')}", value)
                    for name, value in (data.get("transformers") or {}).items()
                ),
            ],
            title="The packed model against the training forward",
        ),
        *course(data),
    ]
    if data.get("text") is not None:
        sections.append(Text(f"{data['prompt']}{data['text']}", "What it writes", code=True))
    sections.append(Pairs(flat(data.get("corpus") or {}), title="Text it was trained on"))
    sections.append(Pairs([(name.replace("_", " "), data.get(name)) for name in rest], "Run"))
    return sections
