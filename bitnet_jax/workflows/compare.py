"""`compare`: two models of any formats side by side: weights, answers, size, speed.

What can be compared is; of the rest the record says why not. How weights and answers are compared
stands in `compare_weights` and `compare_answers`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bitnet_jax.analysis.differences import stored, words
from bitnet_jax.analysis.inspect import stored_bytes
from bitnet_jax.bench.compare import bench_compare
from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.targets.choose import choose
from bitnet_jax.workflows.compare_answers import compare_answers
from bitnet_jax.workflows.compare_weights import compare_weights, not_compared, totals

METRICS = ("accuracy", "size", "speed")
# As long as the logits of a 128k vocabulary stay below half a gigabyte.
TOKENS = 1024


def compare(
    model1: str | os.PathLike,
    model2: str | os.PathLike,
    *,
    metrics: Sequence[str] = METRICS,
    text: str | os.PathLike | None = None,
    tokens: int = TOKENS,
    device: str = "auto",
    count: int | None = None,
    threads: int | None = None,
    plugins: Sequence[str] = (),
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The record of `bitnet model compare`.

    Args:
      metrics: of `METRICS`.
      text: a file or folder that both read, as `measured_text.read_windows` takes it; built in if
        None.
      tokens: how many of it.
      count: rounds of the measurement of speed, as `bench_compare` takes it.
      plugins: Python files of families, for the processes that measure speed.

    Returns:
      table: a row for each measure: `measure`, `first`, `second`, `compared`, `unit`.
      not_compared: what could not be, with the reason.
      weights, tensors, words, accuracy, size, speed: the same in full.

    Raises:
      UsageError: no such metric. NoInput, BadData: a model cannot be opened or read.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UsageError(
                "compare.metric", f"there is no metric `{metric}`", did_you_mean(metric, METRICS)
            )
    choose(device)
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    pair = (open_checkpoint(model1, **reach), open_checkpoint(model2, **reach))
    missing: list[dict[str, str]] = []
    rows, about = compare_weights(pair, missing, progress)
    record: dict[str, Any] = {
        "model1": str(model1),
        "model2": str(model2),
        "metrics": list(metrics),
        "models": about,
        "weights": totals(rows),
        "tensors": rows,
        "words": [item.to_json() for item in words(*pair)],
        "stored": [row for row in stored(*pair) if row["name"] in ("format", "encoding")],
    }
    if "accuracy" in metrics:
        record["accuracy"] = compare_answers(pair, text, tokens, missing, progress)
    if "size" in metrics:
        record["size"] = [_size(one, row) for one, row in zip(pair, about, strict=True)]
    if "speed" in metrics:
        names = [os.fspath(model1), os.fspath(model2)]
        record["speed"] = _speed(names, count, threads, plugins, missing, reach)
    record["not_compared"] = missing
    record["table"] = table(record)
    return record


# ------------------------------------------------------------------------- size and speed


def _size(one: Checkpoint, about: Mapping[str, Any]) -> dict[str, Any]:
    bytes_stored = stored_bytes(one)
    return {
        "file_bytes": bytes_stored,
        "file_bits_per_parameter": 8 * bytes_stored / about["parameters"],
        "bits_per_weight": about["bits_per_weight"],
        "memory_bytes": about["memory_bytes"],
    }


def _speed(
    models: Sequence[str],
    count: int | None,
    threads: int | None,
    plugins: Sequence[str],
    missing: list[dict[str, str]],
    reach: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Both, in turns, each in a process of its own."""
    try:
        return bench_compare(
            models, metrics=("throughput", "latency", "memory"), count=count, threads=threads,
            plugins=plugins, **reach,
        )  # fmt: skip
    except UsageError as error:
        # What cannot be run, or not so long, is no reason to lose all the rest.
        if error.code not in ("bench.context", "bench.no_partner"):
            raise
        not_compared(missing, "speed", error.message)
        return None


# ------------------------------------------------------------------------- in one table


def table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every measure in a row: of the first, of the second, and how they compare."""
    rows: list[dict[str, Any]] = []

    def add(measure: str, first: Any, second: Any, compared: Any = None, unit: str = "") -> None:
        rows.append({"measure": measure, "first": first, "second": second, "compared": compared,
                     "unit": unit})  # fmt: skip

    one, two = record["models"]
    weights = record["weights"]
    add("format", one["format"], two["format"])
    add("encoding", one["encoding"], two["encoding"])
    add("parameters", one["parameters"], two["parameters"])
    if weights["trits"]:
        add("trit agreement", None, None, weights["trit_agreement"], "of 1")
        add("trits changed", None, None, weights["trits_changed"])
        add("largest scale difference", None, None, weights["scale_ulps"], "ULP")
    add("float tensors changed", None, None, weights["floats_changed"])
    add("words that differ", None, None, len(record["words"]))
    found = record.get("accuracy") or {}
    if "perplexity" in found:
        first, second = (row["value"] for row in found["perplexity"])
        add("perplexity", first, second, found["perplexity_ratio"]["value"], "ratio")
    if "kl" in found:
        add("KL", None, None, found["kl"]["value"], "nats per token")
        add("top-1 agreement", None, None, found["top1_agreement"]["value"], "of 1")
        add("largest logit difference", None, None, found["max_logit_difference"], "of the largest")
    if "bits_per_byte" in found:
        first, second = found["bits_per_byte"]
        add("bits per byte", first, second, _ratio(first, second), "ratio")
    for name, words_ in (("file_bytes", "file, bytes"), ("bits_per_weight", "bits per weight"),
                         ("memory_bytes", "weights in memory, bytes")):  # fmt: skip
        if "size" in record:
            first, second = (row[name] for row in record["size"])
            add(words_, first, second, _ratio(first, second), "ratio")
    speed = record.get("speed")
    for row in (speed or {}).get("results", [])[1::2]:
        first = next(r for r in speed["results"] if r["phase"] == row["phase"])  # type: ignore[index]
        add(f"{row['phase']}, tokens/s", first["tokens_per_second"]["median"],
            row["tokens_per_second"]["median"], row["speedup"], "times the first")  # fmt: skip
    return rows


def _ratio(first: Any, second: Any) -> float | None:
    return second / first if first and second is not None else None
