"""`compare`: two models of any formats side by side: weights, answers, size, speed.

What can be compared is; of the rest the record says why not. One model is in memory at a time, the
logits of the first stay.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bitnet_jax.analysis.differences import stored, words
from bitnet_jax.analysis.inspect import stored_bytes
from bitnet_jax.bench.compare import bench_compare
from bitnet_jax.bench.progress import task
from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.quant.digest import DigestBuilder
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.quant.ternary import ternarize
from bitnet_jax.quant.ulps import ulps
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.score import score, token_logprobs
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.stats.means import mean_interval
from bitnet_jax.targets.choose import choose
from bitnet_jax.workflows.measured_text import Windows, read_characters, read_windows
from bitnet_jax.workflows.parity import compare_logits

METRICS = ("accuracy", "size", "speed")
# Of each, as long as the logits of a 128k vocabulary stay below half a gigabyte.
TOKENS, CHARACTERS = 1024, 4000
_WINDOW = 128
_ROWS = 64  # positions turned into probabilities at a time
Pair = tuple[Checkpoint, Checkpoint]


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
    rows, about = _weights(pair, missing, progress)
    record: dict[str, Any] = {
        "model1": str(model1),
        "model2": str(model2),
        "metrics": list(metrics),
        "models": about,
        "weights": _totals(rows),
        "tensors": rows,
        "words": [item.to_json() for item in words(*pair)],
        "stored": [row for row in stored(*pair) if row["name"] in ("format", "encoding")],
    }
    if "accuracy" in metrics:
        record["accuracy"] = _accuracy(pair, text, tokens, missing, progress)
    if "size" in metrics:
        record["size"] = [_size(one, row) for one, row in zip(pair, about, strict=True)]
    if "speed" in metrics:
        names = [os.fspath(model1), os.fspath(model2)]
        record["speed"] = _speed(names, count, threads, plugins, missing, reach)
    record["not_compared"] = missing
    record["table"] = table(record)
    return record


def _not(missing: list[dict[str, str]], what: str, why: str) -> None:
    missing.append({"what": what, "why": why})


# ------------------------------------------------------------------------- weights


def _weights(
    pair: Pair, missing: list[dict[str, str]], progress: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each tensor that both have, and what each model is; reads every tensor once."""
    rows: list[dict[str, Any]] = []
    builders = (DigestBuilder(), DigestBuilder())
    held = [{"packed": 0, "codes": 0, "floats": 0} for _ in pair]
    names = sorted({*pair[0].entries, *pair[1].entries}, key=str.encode)
    apart: dict[str, list[str]] = {}
    with task(progress, "comparing weights", len(names), "tensors") as told:
        for name in names:
            values = [one.read(name) if name in one.entries else None for one in pair]
            for value, builder, sizes in zip(values, builders, held, strict=True):
                if isinstance(value, QuantTensor):
                    builder.add(name, value)
                    sizes["packed"] += value.nbytes
                    sizes["codes"] += math.prod(value.shape)
                elif value is not None:
                    sizes["floats"] += 4 * value.size
            why = _unlike(name, *values)
            if why is None:
                rows.append(_tensor(name, *values))
            else:
                apart.setdefault(why, []).append(name)
            told()
    for why, those in apart.items():
        more = f" and {len(those) - 1} more tensors" if those[1:] else ""
        _not(missing, f"`{those[0]}`{more}", why)
    return rows, [
        _about(one, builder, sizes)
        for one, builder, sizes in zip(pair, builders, held, strict=True)
    ]


def _about(one: Checkpoint, builder: DigestBuilder, held: Mapping[str, int]) -> dict[str, Any]:
    shapes = [(math.prod(entry.shape), entry.ternary) for entry in one.entries.values()]
    return {
        "model": str(one.source.path),
        "format": one.source.format,
        "encoding": one.source.encoding,
        "family": one.spec.family,
        "vocab_size": one.spec.vocab_size,
        "parameters": sum(size for size, _ in shapes),
        "ternary_parameters": sum(size for size, ternary in shapes if ternary),
        "digest": builder.result().to_json(),
        "bits_per_weight": 8 * held["packed"] / held["codes"] if held["codes"] else None,
        "memory_bytes": held["packed"] + held["floats"],
    }


def _unlike(name: str, one: Any, two: Any) -> str | None:
    if one is None or two is None:
        return f"only in the {'first' if two is None else 'second'} model"
    if tuple(one.shape) != tuple(two.shape):
        return f"its shape is {list(one.shape)} in the first, {list(two.shape)} in the second"
    return None


def _tensor(name: str, one: Any, two: Any) -> dict[str, Any]:
    """How much of a tensor agrees; a float one beside a ternary one is ternarized for it."""
    both = [isinstance(value, QuantTensor) for value in (one, two)]
    row: dict[str, Any] = {"name": name, "shape": list(one.shape)}
    if not any(both):
        return row | _floats(np.asarray(one, np.float64), np.asarray(two, np.float64))
    like = one if both[0] else two
    trits, scales = zip(*(_trits(value, like) for value in (one, two)), strict=True)
    same = int(np.count_nonzero(trits[0] == trits[1]))
    size = int(trits[0].size)
    row |= {"trits": size, "agreement": same / size, "changed": size - same}
    row["ternarized"] = [] if all(both) else ["first" if not both[0] else "second"]
    if scales[0].shape == scales[1].shape:
        row["scale_ulps"] = int(ulps(*scales).max())
        ratio = scales[1].astype(np.float64) / scales[0]
        row["scale_ratio"] = float(np.median(ratio))
    if not all(both):
        floats = [np.asarray(v.weight() if b else v, np.float64)
                  for v, b in zip((one, two), both, strict=True)]  # fmt: skip
        row["nmse"] = _nmse(*(floats if not both[0] else floats[::-1]))
    return row


def _trits(value: Any, like: QuantTensor) -> tuple[np.ndarray, np.ndarray]:
    """Trits [*stack, out, in] and scales, of a float matrix as absmean makes them."""
    if isinstance(value, QuantTensor):
        return np.asarray(value.trits()), np.asarray(value.scale, np.float32)
    axes = (*like.stack_axes, *like.out_axes, *like.in_axes)
    matrix = np.transpose(np.asarray(value, np.float32), axes).reshape(like.canonical_shape)
    made = ternarize(matrix, like.scale_kind, like.group_size, like.scale_dtype)
    return np.asarray(made[0]), np.asarray(made[1], np.float32)


def _floats(one: np.ndarray, two: np.ndarray) -> dict[str, Any]:
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - two)
    return {
        "trits": 0,
        "equal": bool(np.array_equal(one, two, equal_nan=True)),
        "difference": float(apart.max()) if apart.size else 0.0,
        "nmse": _nmse(one, two),
    }


def _nmse(reference: np.ndarray, value: np.ndarray) -> float | None:
    """Squared error over squared size; None where the reference is zero or no number."""
    size = float(np.square(reference).sum())
    error = float(np.square(reference - value).sum())
    return error / size if size > 0 and math.isfinite(error) else None


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ternary = [row for row in rows if row["trits"]]
    floats = [row for row in rows if not row["trits"]]
    trits = sum(row["trits"] for row in ternary)
    changed = sum(row["changed"] for row in ternary)
    return {
        "trits": trits,
        "trits_changed": changed,
        "trit_agreement": 1 - changed / trits if trits else None,
        "matrices": len(ternary),
        "matrices_changed": sum(row["changed"] > 0 for row in ternary),
        "scale_ulps": max((row["scale_ulps"] for row in ternary if "scale_ulps" in row),
                          default=None),
        "floats": len(floats),
        "floats_changed": sum(not row["equal"] for row in floats),
    }  # fmt: skip


# ------------------------------------------------------------------------- answers


def _accuracy(
    pair: Pair,
    text: Any,
    tokens: int,
    missing: list[dict[str, str]],
    progress: Any,
) -> dict[str, Any]:
    why = _other_tokens(pair)
    if why is None:
        return _same_tokens(pair, text, tokens, missing, progress)
    for what in ("KL", "top-1 agreement", "perplexity"):
        _not(missing, what, why)
    return _by_bytes(pair, text, missing, progress)


def _other_tokens(pair: Pair) -> str | None:
    """Why the same token ids mean something else to the two; None where they do not."""
    one, two = pair
    if one.spec.vocab_size != two.spec.vocab_size:
        sizes = f"{one.spec.vocab_size} and {two.spec.vocab_size}"
        return f"their vocabularies differ in size ({sizes}): a token of one is none of the other"
    files = [model.tokenizer for model in pair]
    if files[0] is None or files[1] is None or files[0].tokenizer_json == files[1].tokenizer_json:
        return None
    if any(item.part == "tokenizer" and item.name.startswith("model.") for item in words(*pair)):
        return "their tokenizers differ: the same text becomes other tokens"
    return None


def _same_tokens(
    pair: Pair, text: Any, tokens: int, missing: list[dict[str, str]], progress: Any
) -> dict[str, Any]:
    reader = pair[0] if pair[0].tokenizer is not None else pair[1]
    shortest = min(model.spec.max_positions for model in pair)
    if reader.tokenizer is None and text is None:
        _not(missing, "perplexity", "neither model holds a tokenizer: both ran on made-up tokens")
        length = min(_WINDOW, shortest)
        drawn = np.random.default_rng(0).integers(0, reader.spec.vocab_size, (2, length))
        windows = Windows(drawn.astype(np.int32), "tokens drawn at random")
    else:
        length = min(_WINDOW, shortest)
        windows = read_windows(reader, text, tokens=tokens, length=length)
    logits = []
    with task(progress, "running both models", 2 * len(windows.tokens), "windows") as told:
        for model in pair:
            run = Model(model).logits
            logits.append([_told(run(row[None]), told)[0] for row in windows.tokens])
    found: dict[str, Any] = {"text": windows.to_json()}
    kl = [_kl(one, two) for one, two in zip(*logits, strict=True)]
    same = [(one.argmax(-1) == two.argmax(-1)).astype(float)
            for one, two in zip(*logits, strict=True)]  # fmt: skip
    found["kl"] = mean_interval(kl).to_json()
    found["top1_agreement"] = mean_interval(same).to_json()
    parity = compare_logits(np.stack(logits[0]), np.stack(logits[1]))
    found["max_logit_difference"] = parity.max_logit_difference
    found["median_logit_difference"] = parity.median_logit_difference
    if not any(row["what"] == "perplexity" for row in missing):
        costs = [
            [_cost(one, row) for one, row in zip(own, windows.tokens, strict=True)]
            for own in logits
        ]
        both = [mean_interval(cost) for cost in costs]
        found["perplexity"] = [loss.through(_exp).to_json() for loss in both]
        change = [two - one for one, two in zip(*costs, strict=True)]
        found["perplexity_ratio"] = mean_interval(change).through(_exp).to_json()
    return found


def _cost(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """-log p of each token of a window after the first, nats."""
    return -token_logprobs(logits[:-1], tokens[1:])


def _told(value: Any, told: Callable[[], Any]) -> Any:
    told()
    return value


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _kl(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """KL of the second's next token from the first's, nats, for each position: ``Σ p log(p/q)``."""
    out = np.empty(len(one))
    for start in range(0, len(one), _ROWS):
        part = slice(start, start + _ROWS)
        p, q = (_log_softmax(values[part].astype(np.float64)) for values in (one, two))
        out[part] = (np.exp(p) * (p - q)).sum(-1)
    return out


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


def _by_bytes(
    pair: Pair, text: Any, missing: list[dict[str, str]], progress: Any
) -> dict[str, Any]:
    """Bits that each byte of a text costs each model, whatever its tokens are."""
    characters = read_characters(text, CHARACTERS)
    size = len(characters.encode())
    bits: list[float | None] = []
    with task(progress, "running both models", 2, "models") as told:
        for number, model in enumerate(pair):
            if model.tokenizer is None:
                which = ("first", "second")[number]
                _not(missing, "bits per byte", f"the {which} model holds no tokenizer")
                bits.append(None)
                continue
            ids = Tokenizer.from_files(model.tokenizer).encode(characters)
            length = min(_WINDOW, model.spec.max_positions, max(len(ids), 2))
            found = score(Model(model).logits, [ids], length=length, overlap=max(length // 4, 1))
            bits.append(found.nll / math.log(2) / size)
            told()
    return {"text": {"bytes": size, "source": str(text or "built in")}, "bits_per_byte": bits}


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
        # A context too short for the benchmark's prompt is no reason to lose all the rest.
        if error.code != "bench.context":
            raise
        _not(missing, "speed", error.message)
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
