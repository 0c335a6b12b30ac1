"""The page of `bitnet quant validate`: the difference, its interval, the tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, flat
from .quant_analyze import NATS, interval, text_rows

METRICS = {
    "ppl": ("perplexity over the original's, less 1", ""),
    "kl": ("KL from the original", NATS),
    "logits": ("difference of logits", "of the largest"),
    "top1": ("another first choice", "of the tokens"),
}
BESIDE = (
    ("loss_before", "loss of the original", NATS),
    ("loss_after", "loss of the model", NATS),
    ("loss_change", "change of the loss", NATS),
    ("perplexity_before", "perplexity of the original", ""),
    ("perplexity_after", "perplexity of the model", ""),
    ("top1_agreement", "same first choice", "of the tokens"),
)


def rows(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the outcome, and what else was seen."""
    words, unit = METRICS[data["metric"]]
    return [
        (words, Measure(data["value"], unit, interval(data))),
        ("tolerance", data["tolerance"]),
        ("passed", data["passed"]),
        ("certain", data["certain"]),
        *losses(data),
    ]


def losses(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the losses of a pair, each with its interval."""
    return [
        (words, Measure(data[name]["value"], unit, interval(data[name])))
        for name, words, unit in BESIDE
        if name in data
    ]


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, the interval beside the tolerance, the text."""
    words, unit = METRICS[data["metric"]]
    line = {
        "name": words,
        "x": [0, 1],
        "y": [data["value"]] * 2,
        "low": [data["low"]] * 2,
        "high": [data["high"]] * 2,
    }
    chart = {
        "series": [line],
        "marks": [{"name": "tolerance", "value": data["tolerance"]}],
        "x_axis": "the whole text",
        "y_axis": words,
        "y_unit": unit,
        "data": False,
    }
    return [
        Figures(rows(data)),
        Chart("lines", "The difference, with its interval, and the tolerance", chart),
        Pairs(text_rows(data["text"]), title="Text that both read"),
        Pairs(
            [
                *flat(data["model"], "model "),
                *flat(data["reference"], "reference "),
            ],
            title="Models",
        ),
    ]
