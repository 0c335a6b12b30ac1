"""`bench_profile`: where the time and the memory of a run go, per layer, op and instruction.

The engine's own compiled program is run under XLA's profiler, not op by op: what is fused stays
fused. Knows how the record looks; the trace is read in `trace`, the text of the program in `hlo`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.bench import room
from bitnet_jax.bench.hlo import NO_VALUE, Instruction, parse
from bitnet_jax.bench.holding import Holding
from bitnet_jax.bench.machine import describe
from bitnet_jax.bench.places import AFTER, BEFORE, Place, places
from bitnet_jax.bench.progress import task
from bitnet_jax.bench.sizes import check_sizes
from bitnet_jax.bench.steps import CONTEXT, operations, program
from bitnet_jax.bench.trace import trace
from bitnet_jax.compiler.compile import Executable
from bitnet_jax.core.errors import UsageError
from bitnet_jax.core.outputs import check_output
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.stats.medians import Summary
from bitnet_jax.targets.choose import choose

RUNS = 9
# How many instructions the record lists, the slowest first.
LISTED = 200
_NOT_TRACED = (*NO_VALUE, "copy-done", "partition-id")


def bench_profile(
    model: str | os.PathLike,
    *,
    input_shape: str = "512",
    profile_memory: bool = False,
    profile_gpu: bool = False,
    trace_to: str | None = None,
    force: bool = False,
    device: str = "auto",
    head: str | None = None,
    kv: str = "float32",
    layout: str | None = None,
    threads: int | None = None,
    runs: int = RUNS,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Profiles one run of a model: a prefill of this shape, or a decode step.

    Args:
      input_shape: ``512`` tokens, ``4x512`` for four sequences; of length 1 it is a decode step.
      head, kv, layout, threads: as `bj.load` takes them.
      trace_to: a new folder for the trace, for XProf and Perfetto.

    Raises:
      UsageError: no shape, or longer than the context.
      Unavailable: the device is not here, or memory does not suffice.
      CannotCreate: `trace_to` exists.
    """
    batch, length = shape_of(input_shape)
    check_sizes([batch], length, runs)
    target = choose(device)
    if trace_to is not None:
        check_output(Path(trace_to), force=force)
    checkpoint = open_checkpoint(model, offline=offline, progress=progress)
    warnings = list(checkpoint.warnings)
    _check_length(checkpoint.spec, length)
    room.check(checkpoint, batch, length, kv)
    if profile_gpu and target.platform == "cpu":
        warnings.append("there is no GPU here: --profile-gpu has no counters to read")
    engine = Holding(head, layout, threads, kv).model(checkpoint).engine
    with task(progress, "profiling", 3, "steps") as told:
        executable, run, ran = program(engine, batch, length)
        if ran != length:
            warnings.append(f"{length} tokens run as a piece of {ran}: that is what is profiled")
        room.check_compiled(executable, "the program")
        told()
        run()
        wall = Summary.of([_seconds(run) for _ in range(runs)])
        told()
        text = executable.compiled.as_text()
        traced = trace(run, _module_name(text), runs, trace_to, force)
        told()
    rows = _instructions(text, traced.seconds)
    total = sum(row["seconds"] for row in rows)
    record: dict[str, Any] = {
        "schema": "bench-profile/1",
        "model": str(model),
        "phase": "decode" if length == 1 else "prefill",
        "input_shape": [batch, length],
        "profile": "exact",
        "machine": describe(),
        "wall_seconds": {"median": wall.median, "low": wall.low, "high": wall.high},
        "traced_seconds": traced.wall,
        "instruction_seconds": total,
        "runs": runs,
        "layers": _grouped(rows, "layer", total),
        "ops": _grouped(rows, "op", total),
        "instructions": rows[:LISTED],
        "cost": _cost(executable, operations(engine.packed) * batch * ran, wall.median),
        "receipt": executable.receipt.to_json(),
        "trace": [] if trace_to is None else [f"{trace_to}/{name}" for name in traced.files],
        "warnings": warnings,
    }
    if profile_memory:
        record["memory"] = _memory(executable, rows)
    if not rows:
        warnings.append("the profiler told of no instruction: times per op are missing")
    return record


def shape_of(text: str) -> tuple[int, int]:
    """Batch and length of ``512`` or ``4x512``.

    Raises:
      UsageError: it is neither (``bench.shape``).
    """
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            "bench.shape", f"`{text}` is no shape", "say a length (512) or batch and length (4x512)"
        )
    sizes = [int(part) for part in parts]
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _check_length(spec: ModelSpec, length: int) -> None:
    most = spec.max_positions
    if length > most or (length == 1 and CONTEXT >= most):
        raise UsageError(
            "bench.context",
            f"{length} tokens were asked for; the model's context is {most}",
            f"ask for at most {most}",
        )


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _module_name(text: str) -> str:
    return text.split(None, 2)[1].rstrip(",")


def _instructions(text: str, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each instruction that the trace has, the slowest first."""
    module = parse(text)
    where = places(module, text)
    lines = {line.name: line for line in module.computations.get(module.entry, ())}
    found = []
    for name, took in seconds.items():
        # What runs inside a loop or a branch is part of the instruction that holds it.
        line = lines.get(name)
        if line is None or line.opcode in _NOT_TRACED:
            continue
        found.append(_row(line, lines, where[name], took))
    return sorted(found, key=lambda row: -row["seconds"])


def _row(
    line: Instruction, lines: Mapping[str, Instruction], place: Place, seconds: float
) -> dict[str, Any]:
    read = sum(lines[name].nbytes for name in dict.fromkeys(line.operands) if name in lines)
    return {
        "name": line.name,
        "layer": place.layer,
        "op": place.op,
        "weights": list(place.weights),
        "seconds": seconds,
        "bytes_read": read,
        "bytes_written": line.nbytes,
        "gb_s": (read + line.nbytes) / seconds / 1e9 if seconds else None,
        "shape": [list(dims) for _, dims in line.shapes][0] if line.shapes else [],
    }


def _grouped(rows: Iterable[Mapping[str, Any]], key: str, total: float) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        group = groups.setdefault(
            row[key],
            {key: row[key], "seconds": 0.0, "count": 0, "bytes_read": 0, "bytes_written": 0},
        )
        group["seconds"] += row["seconds"]
        group["count"] += 1
        for name in ("bytes_read", "bytes_written"):
            group[name] += row[name]
    for group in groups.values():
        group["share"] = group["seconds"] / total if total else None
    if key == "layer":
        return sorted(groups.values(), key=lambda group: _order(group[key]))
    return sorted(groups.values(), key=lambda group: -group["seconds"])


def _order(layer: str) -> tuple[int, int]:
    number = layer.rpartition(" ")[2]
    return ({BEFORE: 0, AFTER: 2}.get(layer, 1), int(number) if number.isdecimal() else 0)


def _cost(executable: Executable, int8: int, seconds: float) -> dict[str, Any]:
    """What XLA's analysis says the program takes, and what that makes of the measured time.

    XLA cannot look into kernels that are called: their operations stand apart.
    """
    found = executable.compiled.cost_analysis()
    found = found[0] if isinstance(found, list) else found or {}
    flops, read = found.get("flops"), found.get("bytes accessed")
    return {
        "xla_flops": flops,
        "xla_bytes": read,
        "xla_gflop_s": flops / seconds / 1e9 if flops else None,
        "xla_gb_s": read / seconds / 1e9 if read else None,
        "int8_operations": int8,
        "int8_tops": int8 / seconds / 1e12,
    }


def _memory(executable: Executable, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The program's memory by kind, and the largest results."""
    analysis = executable.compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp", "generated_code")
    kinds = {f"{name}_bytes": getattr(analysis, f"{name}_size_in_bytes", None) for name in names}
    largest = sorted(rows, key=lambda row: -row["bytes_written"])[:20]
    kept = ("name", "layer", "op", "bytes_written", "shape")
    return {
        **kinds,
        "peak_bytes": getattr(analysis, "peak_memory_in_bytes", None),
        "largest": [{key: row[key] for key in kept} for row in largest],
    }
