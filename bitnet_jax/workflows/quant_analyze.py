"""What ternarizing a float model would cost, linear by linear and as a whole.

Every figure is from forward (and, for predictions, backward) passes of the model itself on
given or built-in text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.analysis.products import observe, weight_errors
from bitnet_jax.analysis.sensitivity import Losses, Predicted, Sensitivity
from bitnet_jax.bench.device import choose
from bitnet_jax.bench.progress import task
from bitnet_jax.core.errors import UsageError
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.passes.pack import pack
from bitnet_jax.stats.means import Interval, mean_interval, spearman
from bitnet_jax.workflows.measured_text import TOKENS, read_windows
from bitnet_jax.workflows.model_pair import exp
from bitnet_jax.workflows.quant_model import float_model

# No run of this version has measured what it takes to recover from PTQ at a model's size.
UNKNOWN = "unknown"


def quant_analyze(
    model: str | os.PathLike,
    *,
    precision: str = "1.58",
    recipe: str | os.PathLike | None = None,
    text: str | os.PathLike | None = None,
    tokens: int = TOKENS,
    length: int | None = None,
    quick: bool = False,
    seed: int = 0,
    device: str = "auto",
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Analyzes a float model.

    Args:
      precision, recipe: as `float_model` takes them.
      text: what it is measured on, as `read_windows` takes it; the built-in text if None.
      tokens, length: how much of it, in windows of what length.
      quick: predict the order of the linears and measure none by itself; the price of all is
        measured all the same.
      seed: of the labels that predictions draw, and of the intervals.

    Raises:
      BadData, UsageError, ConfigError: as `float_model` and `read_windows`.
    """
    choose(device)
    checkpoint = open_checkpoint(model, offline=offline, progress=progress)
    subject = float_model(checkpoint, precision, recipe)
    windows = read_windows(checkpoint, text, tokens=tokens, length=length)
    params = subject.params()
    sensitivity = Sensitivity(
        subject.forward, params, subject.rules, windows.tokens, checkpoint.spec.vocab_size
    )
    names = sensitivity.names
    example = jax.ShapeDtypeStruct((1, windows.tokens.shape[1]), jnp.int32)
    packed = pack(subject.forward, params, subject.rules, example)
    weights = weight_errors(params, packed)
    del packed
    products = observe(subject.forward, params, subject.rules, windows.tokens, sensitivity.batch)
    with task(progress, "predict each linear", 2 * len(windows.tokens), "window") as told:
        predicted = sensitivity.predict(seed=seed, told=told)
    nothing, everything = np.zeros((1, len(names))), np.ones((1, len(names)))
    parts = [nothing, everything]
    if not quick:
        parts += [sensitivity.alone(), sensitivity.without()]
    batches = -(-len(windows.tokens) // sensitivity.batch)
    with task(progress, f"measure {sum(map(len, parts))} choices", batches, "batch") as told:
        base, whole, *each = sensitivity.measure(np.concatenate(parts), told)
    layers = [{"name": name, **weights.get(name, {}), **products.get(name, {})} for name in names]
    _add_costs(layers, predicted, base, whole, each, seed)
    orders = _orders(layers, quick, seed)
    by = [row["name"] for row in sorted(layers, key=lambda row: _gain(row), reverse=True)]
    kept = _keep(sensitivity, by, layers, base, whole, seed)
    return {
        "model": str(model),
        "source": checkpoint.source.to_json(),
        "precision": precision,
        "rules": subject.rules_json(),
        "text": windows.to_json(),
        "price": price(base, whole, seed),
        "layers": layers,
        "order": orders,
        "keep": kept,
        "recovery": {"recipe": UNKNOWN, "tokens": UNKNOWN},
        "warnings": list(checkpoint.warnings),
    }


# ---------------------------------------------------------------------------- the price
def price(base: Losses, found: Losses, seed: int = 0) -> dict[str, Any]:
    """What a change of the model costs, token by token on the same text, with 95 % intervals.

    Returns:
      ``loss_before``, ``loss_after`` (nats per token), ``loss_change``, ``perplexity_ratio``,
      ``kl``, ``top1_agreement``: each ``{value, low, high}``.
    """
    change = mean_interval(found.nll.astype(np.float64) - base.nll, seed=seed)
    return {
        "loss_before": mean_interval(base.nll, seed=seed).to_json(),
        "loss_after": mean_interval(found.nll, seed=seed).to_json(),
        "loss_change": change.to_json(),
        "perplexity_ratio": change.through(exp).to_json(),
        "kl": mean_interval(found.kl, seed=seed).to_json(),
        "top1_agreement": mean_interval(found.same, seed=seed).to_json(),
    }


# -------------------------------------------------------------------------- each linear
def _add_costs(
    layers: list[dict[str, Any]],
    predicted: Predicted,
    base: Losses,
    whole: Losses,
    each: Sequence[Losses],
    seed: int,
) -> None:
    """Adds ``alone`` and ``kept`` to each row: what was predicted, and what was measured."""
    count = len(layers)
    for place, row in enumerate(layers):
        row["alone"] = {"predicted_kl": float(predicted.alone[place])}
        row["kept"] = {"predicted_kl_gain": float(predicted.kept[place])}
        if not each:
            continue
        alone, without = each[place], each[count + place]
        row["alone"] |= {
            "kl": mean_interval(alone.kl, seed=seed).to_json(),
            "loss_change": mean_interval(alone.nll - base.nll, seed=seed).to_json(),
        }
        row["kept"] |= {
            "kl_gain": mean_interval(whole.kl - without.kl, seed=seed).to_json(),
            "loss_gain": mean_interval(whole.nll - without.nll, seed=seed).to_json(),
        }


# question -> (what was predicted, what was measured), as rows hold it
QUESTIONS = {"alone": ("predicted_kl", "kl"), "kept": ("predicted_kl_gain", "kl_gain")}


def _orders(layers: Sequence[dict[str, Any]], quick: bool, seed: int) -> dict[str, Any]:
    """For each question the linears in descending order, and how far both orders agree."""
    orders: dict[str, Any] = {}
    for question, (guess, fact) in QUESTIONS.items():
        guesses = [row[question][guess] for row in layers]
        order: dict[str, Any] = {"predicted": _descending(layers, guesses)}
        if not quick:
            facts = [row[question][fact]["value"] for row in layers]
            order["measured"] = _descending(layers, facts)
            order["agreement"] = _agreement(guesses, facts, seed)
        orders[question] = order
    return orders


def _descending(layers: Sequence[dict[str, Any]], values: Sequence[float]) -> list[str]:
    return [layers[place]["name"] for place in np.argsort(-np.asarray(values), kind="stable")]


def _agreement(guesses: list[float], facts: list[float], seed: int) -> dict[str, float] | None:
    """Spearman's rank correlation; None where there are too few linears for an order."""
    try:
        found: Interval = spearman(guesses, facts, seed=seed)
    except UsageError:
        return None
    return {"spearman": found.value, "low": found.low, "high": found.high}


# -------------------------------------------------------------------------- which to keep
def _gain(row: dict[str, Any]) -> float:
    """What keeping this linear gains: as measured, else as predicted."""
    kept = row["kept"]
    return kept["kl_gain"]["value"] if "kl_gain" in kept else kept["predicted_kl_gain"]


def _keep(
    sensitivity: Sensitivity,
    by: Sequence[str],
    layers: Sequence[dict[str, Any]],
    base: Losses,
    whole: Losses,
    seed: int,
) -> dict[str, Any]:
    """The price when the first 1, 2, 4, … linears of the order stay as they are: measured."""
    counts = [0]
    while (counts[-1] or 0.5) * 2 < len(by):
        counts.append(int((counts[-1] or 0.5) * 2))
    counts.append(len(by))
    choices = np.ones((len(counts), len(by)), np.float32)
    for row, count in zip(choices, counts, strict=True):
        row[[sensitivity.names.index(name) for name in by[:count]]] = 0
    found = [whole, *sensitivity.measure(choices[1:-1]), base] if len(counts) > 2 else [whole, base]
    size = {row["name"]: row.get("parameters", 0) for row in layers}
    total = sum(size.values()) or 1
    curve = []
    for count, losses in zip(counts, found, strict=True):
        curve.append(
            {
                "count": count,
                "share_of_weights": sum(size[name] for name in by[:count]) / total,
                "loss_change": mean_interval(losses.nll - base.nll, seed=seed).to_json(),
                "kl": mean_interval(losses.kl, seed=seed).to_json(),
            }
        )
    half = curve[0]["kl"]["value"] / 2
    enough = next(row["count"] for row in curve if row["kl"]["value"] <= half)
    return {
        "by": "measured gain" if "kl_gain" in layers[0]["kept"] else "predicted gain",
        "order": list(by),
        "curve": curve,
        "halves_the_kl": list(by[:enough]),
    }
