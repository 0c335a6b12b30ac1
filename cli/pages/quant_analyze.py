"""The page of `bitnet quant analyze`: the price, each linear, and what keeping some gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..result import Chart, Figures, Measure, Pairs, Section, Table, flat, table_of

NATS = "nats per token"
PRICE = (
    ("loss_before", "loss before", NATS),
    ("loss_after", "loss after", NATS),
    ("loss_change", "change of the loss", NATS),
    ("perplexity_ratio", "perplexity", "times"),
    ("kl", "KL from the original", NATS),
    ("top1_agreement", "same first choice", "of the tokens"),
)
# What is shown of a rule.
RULE = ("path", "use", "to", "scale")
# What is shown of a linear: heading -> where its row has it, the first that is there.
COLUMNS: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "kind": ("kind",),
    "NMSE": ("nmse",),
    "SQNR, dB": ("sqnr_db",),
    "zeros": ("zero_share",),
    "output NMSE": ("output_nmse",),
    "crest": ("activations.crest",),
    "KL alone": ("alone.kl.value",),
    "predicted KL alone": ("alone.predicted_kl",),
    "KL gain if kept": ("kept.kl_gain.value",),
    "predicted gain if kept": ("kept.predicted_kl_gain",),
}


def price_rows(price: Mapping[str, Any]) -> list[tuple[str, Measure]]:
    """Returns the lines of a price, each with its interval."""
    return [
        (words, Measure(price[name]["value"], unit, interval(price[name])))
        for name, words, unit in PRICE
    ]


def interval(found: Mapping[str, float]) -> str:
    """Returns an interval as words."""
    return f"95 %: {found['low']:.4g} to {found['high']:.4g}"


def layer_rows(data: Mapping[str, Any], title: str) -> Table:
    """Returns the linears as a table, in the order in which they are best kept."""
    flattened = {row["name"]: dict(flat(row)) for row in data["layers"]}
    rows = [flattened[name] for name in data["keep"]["order"]]
    known = [name for name, (key,) in COLUMNS.items() if any(key in row for row in rows)]
    return Table(known, [[row.get(COLUMNS[name][0]) for name in known] for row in rows], title)


def page(data: Mapping[str, Any]) -> list[Section]:
    """Returns the sections: figures, the price of keeping some, each linear."""
    price, layers = data["price"], data["layers"]
    sections: list[Section] = [
        Figures(price_rows(price)),
        _curve(data["keep"]),
        table_of(data["keep"]["curve"], title="The price, when the first so many are kept"),
        Table(
            ["kept as they are"],
            [[name] for name in data["keep"]["halves_the_kl"]],
            title=f"These halve the KL, by {data['keep']['by']}",
        ),
        Pairs(
            [(name.replace("_", " "), value) for name, value in data["recovery"].items()],
            title="To recover the rest by training",
        ),
    ]
    measured = all("kl" in row["alone"] for row in layers)
    if measured:
        sections.append(_bars(layers))
        sections += [_scatter(layers, question) for question in ("alone", "kept")]
        sections.append(_agreement(data["order"]))
    sections += [
        _errors(layers),
        layer_rows(data, title="Linears, by what keeping them gains"),
        table_of(layers, title="Everything about each linear"),
        table_of(data["rules"], RULE, title="Rules"),
        Pairs(flat(data["text"]), title="Text that it was measured on"),
    ]
    return sections


def _curve(keep: Mapping[str, Any]) -> Chart:
    curve = keep["curve"]
    line = {
        "name": "KL from the original",
        "x": [row["share_of_weights"] for row in curve],
        **{
            axis: [row["kl"][name] for row in curve]
            for axis, name in (("y", "value"), ("low", "low"), ("high", "high"))
        },
    }
    fields = {
        "series": [line],
        "x_axis": "share of the weights that stay as they are",
        "y_axis": "KL",
        "y_unit": NATS,
        "data": False,
    }
    return Chart("lines", "What keeping the most sensitive gives back", fields)


def _bars(layers: Sequence[Mapping[str, Any]]) -> Chart:
    return Chart(
        "bars",
        "KL when only this linear is quantized, and what keeping it gains",
        {
            "categories": [row["name"] for row in layers],
            "series": [
                {"name": "alone", "values": [row["alone"]["kl"]["value"] for row in layers]},
                {
                    "name": "gain if kept",
                    "values": [row["kept"]["kl_gain"]["value"] for row in layers],
                },
            ],
            "axis": "KL",
            "unit": NATS,
            "category_axis": "linear, in the model's order",
            "data": False,
        },
    )


WORDS = {
    "alone": ("predicted_kl", "kl", "KL alone"),
    "kept": ("predicted_kl_gain", "kl_gain", "gain if kept"),
}


def _scatter(layers: Sequence[Mapping[str, Any]], question: str) -> Chart:
    guess, fact, words = WORDS[question]
    points = [
        {"name": row["name"], "x": row[question][guess], "y": row[question][fact]["value"]}
        for row in layers
    ]
    fields = {
        "groups": [{"name": "linears", "points": points}],
        "x_axis": f"predicted {words}",
        "y_axis": f"measured {words}",
        "x_unit": NATS,
        "y_unit": NATS,
        "data": False,
    }
    return Chart("scatter", f"{words}: predicted and measured", fields)


def _agreement(order: Mapping[str, Any]) -> Table:
    rows = [{"question": name, **(found["agreement"] or {})} for name, found in order.items()]
    return table_of(rows, title="Rank correlation of predicted and measured order")


def _errors(layers: Sequence[Mapping[str, Any]]) -> Chart:
    return Chart(
        "bars",
        "Relative squared error of weights and of outputs",
        {
            "categories": [row["name"] for row in layers],
            "series": [
                {"name": "weights", "values": [row.get("nmse") for row in layers]},
                {"name": "outputs", "values": [row.get("output_nmse") for row in layers]},
            ],
            "axis": "NMSE",
            "category_axis": "linear, in the model's order",
            "data": False,
        },
    )
