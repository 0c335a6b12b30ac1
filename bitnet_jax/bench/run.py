"""`bench_run`: how fast a model runs here, phase by phase, beside what the machine can do.

All rows are measured in rounds, one after another, and the memory's bandwidth in each round, so
that a slow minute is seen by all. Knows how the record looks; what is timed stands in `steps`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bitnet_jax.bench import device_probes, room
from bitnet_jax.bench import probes as host_probes
from bitnet_jax.bench.energy import Energy, energy
from bitnet_jax.bench.holding import Holding
from bitnet_jax.bench.machine import describe
from bitnet_jax.bench.probes import Bandwidth, Peak, buffer_bytes
from bitnet_jax.bench.progress import task
from bitnet_jax.bench.receipt import receipt
from bitnet_jax.bench.sizes import check_sizes, fit
from bitnet_jax.bench.steps import CONTEXT, Row, consistency, decode_row, prefill_row
from bitnet_jax.core.pages import memory_available, peak_resident
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.runtime.engine import Engine
from bitnet_jax.stats.medians import Summary, median, ratio_interval
from bitnet_jax.stats.rounds import Until, rounds
from bitnet_jax.targets.choose import choose

SCHEMA = "bench-run/1"
# Tokens of the longer of the two generations whose difference the token times must explain.
LONGEST = 192
_BANDWIDTH, _PEAK = "bandwidth", "peak"
# How long the consistency check may go on, how often at least, and at most.
_CHECK_SECONDS, _FEWEST, _CHECKS = 4.0, 3, 5


def bench_run(
    model: str | os.PathLike,
    *,
    device: str = "auto",
    batch_sizes: Sequence[int] = (1,),
    prompt_tokens: int | None = None,
    decode_tokens: int | None = None,
    count: int | None = None,
    head: str | None = None,
    kv: str = "float32",
    layout: str | None = None,
    threads: int | None = None,
    probe_bytes: int | None = None,
    until: Until | None = None,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Measures prefill and decode of a model at each batch.

    Args:
      prompt_tokens, decode_tokens: of one measurement; None: 512 and 64, or what the context holds.
      count: how often each is measured; None: until the interval is narrow.
      head, kv, layout, threads: as `bj.load` takes them.
      probe_bytes: of the buffer that the bandwidth is measured on; None: 2 GiB.
      until: when a row is measured enough; None: as `Until` says.

    Raises:
      UsageError: a size that is not one, or more tokens than the context.
      Unavailable: the device is not here, or memory does not suffice.
    """
    holding = Holding(head, layout, threads, kv)
    sizes = check_sizes(batch_sizes, prompt_tokens, decode_tokens, count)
    choose(device)
    checkpoint = open_checkpoint(model, offline=offline, progress=progress)
    warnings = list(checkpoint.warnings)
    prompt, decode = fit(checkpoint.spec, prompt_tokens, decode_tokens, warnings)
    longest = max(prompt, CONTEXT + decode)
    room.check(checkpoint, max(sizes), longest, kv, buffer_bytes(probe_bytes))
    counters, energy_words = energy()
    machine = describe()
    # What a limit is, is measured where the model runs.
    probes = host_probes if machine["platform"] == "cpu" else device_probes
    probe, peak = probes.bandwidth(probe_bytes), probes.int8_peak()
    held = holding.model(checkpoint)
    engine = held.engine
    rows = _rows(engine, sizes, prompt, decode, counters, progress)
    values = _measure(rows, probe, peak, until or Until(count=count), progress)
    agreement = _agreement(engine, checkpoint.spec, rows, warnings)
    results = [
        _result(row, values[row.name], values[_BANDWIDTH], peak, counters is not None)
        for row in rows.values()
    ]
    warnings += _doubts(results, machine)
    programs = receipt(engine, rows.values())
    if programs["unpacked_weights"]:
        warnings.append(
            f"{programs['unpacked_weights']} weights are unpacked to floats: see the receipt"
        )
    return {
        "schema": SCHEMA,
        "model": str(model),
        "architecture": architecture(checkpoint),
        "machine": machine,
        "settings": {
            "device": machine["platform"],
            **holding.settings(),
            "prompt_tokens": prompt,
            "decode_tokens": decode,
            "context": CONTEXT,
            "batch_sizes": sizes,
        },
        "profile": held.profile,
        "bandwidth_gb_s": probe.gb_s,
        "bandwidth": probe.to_json(),
        "int8_peak_tops": peak.tops,
        "int8_peak": peak.to_json(),
        "results": results,
        "roofline": _roofline(results, rows, probe, peak),
        "consistency": agreement,
        "energy": {"read": counters is not None, "counters": energy_words},
        "memory": memory(),
        "receipt": programs,
        "warnings": warnings,
    }


def architecture(checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a model decides how fast it is."""
    spec = checkpoint.spec
    names = ("family", "hidden_size", "intermediate_size", "num_layers", "num_heads")
    more = ("num_kv_heads", "head_dim", "vocab_size", "tie_embeddings")
    return {name: getattr(spec, name) for name in (*names, *more)}


def memory() -> dict[str, Any]:
    """What this process holds, and what is free."""
    import psutil

    held = psutil.Process().memory_info().rss
    return {
        "resident_bytes": held,
        "peak_bytes": peak_resident(os.getpid()),
        "available_bytes": memory_available(),
    }


def _rows(
    engine: Engine,
    sizes: Sequence[int],
    prompt: int,
    decode: int,
    counters: Energy | None,
    progress: Any,
) -> dict[str, Row]:
    rows = {}
    with task(progress, "compiling", 2 * len(sizes), "programs") as told:
        for make, tokens in ((prefill_row, prompt), (decode_row, decode)):
            for batch in sizes:
                row = make(engine, batch, tokens, counters)
                rows[row.name] = row
                told()
    return rows


def _measure(
    rows: dict[str, Row], probe: Bandwidth, peak: Peak, until: Until, progress: Any
) -> dict[str, list[float]]:
    with task(progress, "measuring", None, "measurements") as told:
        return rounds(
            {name: row.measure for name, row in rows.items()},
            until,
            beside={_BANDWIDTH: probe.again, _PEAK: peak.again},
            told=lambda name: told(),
        )


def _agreement(
    engine: Engine, spec: ModelSpec, rows: dict[str, Row], warnings: list[str]
) -> dict[str, Any] | None:
    row = rows.get("decode 1")
    longest = min(LONGEST, spec.max_positions - CONTEXT)
    if row is None or longest < 6:
        return None
    once = 2 * longest * median(row.token_seconds)
    found = consistency(
        engine, row, longest, max(_FEWEST, min(_CHECKS, int(_CHECK_SECONDS / once)))
    )
    if not found["agrees"]:
        long, short = found["tokens"]
        warnings.append(
            f"the wall time of {long} less {short} tokens is {found['ratio']:.2f} of what the "
            "token times say: something else ran, or the machine changed its speed"
        )
    return found


def _result(
    row: Row, values: Sequence[float], speeds: Sequence[float], peak: Peak, metered: bool
) -> dict[str, Any]:
    summary = Summary.of(values)
    # Each value beside the bandwidth of its own round.
    beside = list(speeds[: len(values)])
    low, high = ratio_interval(values, beside)
    gb = row.bytes_per_token / 1e9
    share = median([value / speed for value, speed in zip(values, beside, strict=True)]) * gb
    tops = row.operations_per_token * summary.median / 1e12
    return {
        "phase": row.phase,
        "batch": row.batch,
        "tokens": row.tokens,
        "tokens_per_second": {
            "median": summary.median,
            "low": summary.low,
            "high": summary.high,
            "count": summary.count,
            "values": list(values),
        },
        "beside_gb_s": beside,
        "bytes_per_token": row.bytes_per_token,
        "bandwidth_share": share,
        "bandwidth_share_interval": [low * gb, high * gb],
        "int8_tops": tops,
        "int8_share": tops / peak.tops if peak.tops else None,
        "joules_per_token": median(row.joules) if metered and row.joules else None,
        "kernel": row.executable.receipt.kernel,
    }


def _doubts(results: Sequence[dict[str, Any]], machine: dict[str, Any]) -> list[str]:
    """What makes the figures less than they seem."""
    found = []
    load, cores = machine["load_average"], machine["cores"]
    if load is not None and load > (cores or 1) / 2:
        found.append(f"this machine was busy: {load:.1f} processes wanted to run on {cores} cores")
    for row in results:
        for name, what in (("bandwidth_share", "memory"), ("int8_share", "int8 arithmetic")):
            if (row[name] or 0) > 1.05:
                found.append(
                    f"{row['phase']}, batch {row['batch']} is at {row[name]:.0%} of what {what} "
                    "was measured to give: the limit was taken in a worse moment than the speed"
                )
    return found


def _roofline(
    results: Sequence[dict[str, Any]], rows: dict[str, Row], probe: Bandwidth, peak: Peak
) -> dict[str, Any] | None:
    """Where each row stands below what memory and arithmetic allow; None without both."""
    if not peak.tops:
        return None
    points = []
    for result in results:
        row = rows[f"{result['phase']} {result['batch']}"]
        each = row.operations_per_token / row.bytes_per_token
        points.append(
            {
                "name": f"{row.phase}, batch {row.batch}",
                "operations_per_byte": each,
                "tops": result["int8_tops"],
                "limit_tops": min(peak.tops, each * probe.gb_s / 1e3),
            }
        )
    ridge = peak.tops * 1e3 / probe.gb_s
    at = sorted({*(p["operations_per_byte"] for p in points), ridge / 8, ridge, ridge * 8})
    return {
        "points": points,
        "operations_per_byte": at,
        "limit_tops": [min(peak.tops, x * probe.gb_s / 1e3) for x in at],
    }
