"""`bench_compare`: models, and runtimes, side by side: rounds of A B A B, ratios with intervals.

Each contestant is a process of its own with the same threads; only one works at a time. Knows
nothing of how a runtime runs a model (`peers`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bitnet_jax.bench.holding import Holding
from bitnet_jax.bench.machine import describe
from bitnet_jax.bench.peers.process import Peer
from bitnet_jax.bench.peers.runner import CONTEXT, Job
from bitnet_jax.bench.peers.table import OURS, pairs
from bitnet_jax.bench.progress import task
from bitnet_jax.bench.sizes import check_sizes
from bitnet_jax.containers.onnx_file import data_locations
from bitnet_jax.core.errors import Unavailable, UsageError, did_you_mean
from bitnet_jax.core.system import usable_cores
from bitnet_jax.formats.model_files import GRAPHS
from bitnet_jax.stats.medians import Summary, median, ratio_interval
from bitnet_jax.stats.rounds import paired_rounds

METRICS = ("latency", "throughput", "memory")
PROMPT, DECODE = 128, 32
# Without --count: at least and at most so many rounds, and no new one after these seconds.
# Of fewer than LEAST, equals lie on one side of each other too often (of six, one time in 32) to
# say that two differ.
LEAST, MOST, SECONDS = 8, 20, 300.0
# When the rounds so far are looked at, and how sure a difference must be: whoever looks after
# every round, at 95 %, soon sees one between equals.
LOOKS, SURE = (8, 14), 0.99
_PHASES = ("prefill", "decode")


def bench_compare(
    models: Sequence[str | os.PathLike],
    *,
    runtimes: Sequence[str] = (OURS,),
    metrics: Sequence[str] = METRICS,
    batch_sizes: Sequence[int] = (1,),
    prompt_tokens: int = PROMPT,
    decode_tokens: int = DECODE,
    count: int | None = None,
    device: str = "auto",
    head: str | None = None,
    kv: str = "float32",
    layout: str | None = None,
    threads: int | None = None,
    plugins: Sequence[str] = (),
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Compares every model in every runtime named that reads it; the first pair is the measure.

    Args:
      count: how many rounds; None: until every ratio's interval leaves one, or `MOST`.
      device: ``cpu``, or ``auto``, which is the same here: the peers run there.
      head, kv, layout: how this package holds its models, as `bj.load` takes them.
      threads: of every runtime; None: one for each processor.
      plugins: Python files that each of our processes runs first, for families of their own.
      offline: fetch nothing.

    Raises:
      UsageError: less than two pairs, or one that has no partner.
      Unavailable: a runtime is not installed, or fails.
    """
    sizes = check_sizes(batch_sizes, prompt_tokens, decode_tokens, count)
    for metric in metrics:
        if metric not in METRICS:
            raise UsageError(
                "bench.metric", f"there is no metric `{metric}`", did_you_mean(metric, METRICS)
            )
    _check_device(device)
    Holding(head, layout, threads, kv)  # checked before any process starts
    found = pairs([os.fspath(model) for model in models], list(runtimes))
    if len(found) < 2:
        raise UsageError(
            "bench.one_contestant",
            f"there is one thing to measure ({found[0][0]} in {found[0][1]}), and two are compared",
            "name another model, or another of --runtimes; `bitnet bench run` measures one",
        )
    if set(metrics) == {"memory"}:
        count = 1  # it is told by one measurement
    threads = threads or usable_cores() or 1
    with ExitStack() as stack:
        peers = {}
        with task(progress, "starting", len(found), "processes") as told:
            for model, name in found:
                sequences = (tuple(sizes), prompt_tokens, decode_tokens)
                job = Job(model, threads, *sequences, tuple(plugins), offline, head, kv, layout)
                peers[f"{model} ({name})"] = stack.enter_context(Peer(name, job))
                told()
        _check_context(peers, max(prompt_tokens, CONTEXT + decode_tokens))
        rows = _race(peers, sizes, count, progress)
        memory = {name: peer.peak_bytes() for name, peer in peers.items()}
    tokens = dict(zip(_PHASES, (prompt_tokens, decode_tokens), strict=True))
    return {
        "schema": "bench-compare/1",
        "machine": describe(),
        "settings": {
            "head": head,
            "kv": kv,
            "layout": layout,
            "threads": threads,
            "prompt_tokens": prompt_tokens,
            "decode_tokens": decode_tokens,
            "context": CONTEXT,
            "batch_sizes": sizes,
            "metrics": list(metrics),
        },
        "contestants": [
            {
                "name": name,
                "model": model,
                "runtime": runtime,
                "file_bytes": file_bytes(model),
                **peers[name].facts,
                **({"peak_bytes": memory[name]} if "memory" in metrics else {}),
            }
            for name, (model, runtime) in zip(peers, found, strict=True)
        ],
        "results": [
            row
            for phase in _PHASES
            for batch in sizes
            for row in _results(list(peers), phase, batch, tokens[phase], rows, metrics)
        ],
    }


def _check_device(device: str) -> None:
    # Asked of the table, not of JAX: this process does not run a model, and starts no backend.
    if device not in ("auto", "cpu"):
        raise Unavailable(
            "bench.compare_device",
            f"device `{device}` was asked for; contestants are compared on the CPU",
            "use --device cpu, or `bitnet bench run` with each",
        )


def _check_context(peers: Mapping[str, Peer], tokens: int) -> None:
    for name, peer in peers.items():
        positions = peer.facts.get("positions")
        if positions and tokens > positions:
            raise UsageError(
                "bench.context",
                f"{tokens} tokens were asked for; the context of {name} is {positions}",
                "ask for fewer: --prompt-tokens, --decode-tokens",
            )


def _race(
    peers: Mapping[str, Peer], sizes: Sequence[int], count: int | None, progress: Any
) -> dict[tuple[str, int], dict[str, list[float]]]:
    """(phase, batch) -> name -> seconds of each round."""
    found = {}
    with task(progress, "measuring", None, "measurements") as told:
        for phase in _PHASES:
            for batch in sizes:
                calls: dict[str, Callable[[], float]] = {
                    name: partial(peer.seconds, phase, batch) for name, peer in peers.items()
                }
                for call in calls.values():
                    call()  # warm-up: compilation, pages, caches
                enough = _Enough(count, time.monotonic() + SECONDS)
                found[phase, batch] = paired_rounds(calls, enough, lambda name: told())
    return found


class _Enough:
    """Whether the rounds so far tell every contestant from the first."""

    def __init__(self, count: int | None, deadline: float):
        self._count, self._deadline = count, deadline

    def __call__(self, values: Mapping[str, Sequence[float]]) -> bool:
        first, *others = values.values()
        if self._count is not None:
            return len(first) >= self._count
        if len(first) < LEAST:
            return False
        if len(first) >= MOST or time.monotonic() > self._deadline:
            return True
        return len(first) in LOOKS and all(_differ(first, other) for other in others)


def _results(
    names: Sequence[str],
    phase: str,
    batch: int,
    tokens: int,
    rows: Mapping[tuple[str, int], Mapping[str, Sequence[float]]],
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    seconds = rows[phase, batch]
    first = seconds[names[0]]
    found = []
    for name in names:
        own = seconds[name]
        row: dict[str, Any] = {"name": name, "phase": phase, "batch": batch, "tokens": tokens}
        if "throughput" in metrics:
            speed = Summary.of([batch * tokens / s for s in own])
            row["tokens_per_second"] = _interval(speed)
        if "latency" in metrics:
            # What one waits for: the whole prompt, or one token.
            each = Summary.of([s / (tokens if phase == "decode" else 1) for s in own])
            row["latency_seconds"] = _interval(each)
        if "throughput" in metrics or "latency" in metrics:
            # How many times the first one's speed: its seconds over these.
            low, high = ratio_interval(first, own)
            row |= {
                "speedup": median([a / b for a, b in zip(first, own, strict=True)]),
                "speedup_interval": [low, high],
                "differs": _differ(first, own) if len(own) >= LEAST else None,
            }
        found.append({**row, "rounds": len(own)})
    return found


def _differ(first: Sequence[float], other: Sequence[float]) -> bool:
    low, high = ratio_interval(other, first, confidence=SURE)
    return low > 1 or high < 1


def _interval(summary: Summary) -> dict[str, float]:
    return {"median": summary.median, "low": summary.low, "high": summary.high}


def file_bytes(model: str) -> int | None:
    """Bytes of a model's files, a graph's data among them; None of one that is no file here."""
    path = Path(model)
    files = list(path.rglob("*")) if path.is_dir() else [path]
    if path.suffix in GRAPHS and path.is_file():
        files += [path.parent / name for name in data_locations(path)]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return sum(sizes) if sizes else None
