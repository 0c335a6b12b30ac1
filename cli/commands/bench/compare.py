"""`bitnet bench compare`: models, and runtimes, side by side."""

# ruff: noqa: UP045
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ...context import Context
from ...fields import option, whole
from ...options import (
    EngineArgs,
    batch_sizes_option,
    count_option,
    device_option,
    metrics_option,
    record_force_option,
)
from ...pages.bench_compare import page, rows
from ...result import CommandResult, Section, Table, table_of

EXAMPLES = (
    "bitnet bench compare --models model1.bitnet,model2.hf --metrics latency,throughput,memory",
    "bitnet bench compare model1.bitnet model2.hf --metrics memory",
)

DETAILS = """\
Each model runs in each of --runtimes that reads it, in a process of its own with the same
threads; they take turns, A B A B. The first is what the others are set against; `differs` means
that the 99 % interval of the ratio leaves one. Without --count the rounds end after 8 or 14 if
all differ by then, else after 20."""

CONTESTANTS = ("name", "version", "kernel", "weight_bytes", "file_bytes", "peak_bytes")


@dataclass
class BenchCompareArgs(EngineArgs):
    """Options of `bitnet bench compare`."""

    models: list[str] = option(
        default_factory=list,
        type=str,
        repeat=True,
        commas=True,
        needed=True,
        positional=True,
        metavar="LIST",
        help="the models, separated by commas",
    )
    metrics: list[str] = metrics_option("latency", "throughput", "memory")
    runtimes: list[str] = option(
        default_factory=lambda: ["bitnet-jax"],
        type=str,
        repeat=True,
        commas=True,
        choices=("bitnet-jax", "transformers", "llama.cpp", "onnxruntime"),
        planned=("bitnet.cpp",),
        metavar="LIST",
        help="what runs them, where it is installed",
    )
    batch_sizes: list[int] = batch_sizes_option()
    prompt_tokens: int = option(type=whole(1), default=128, metavar="N", help="tokens of a prefill")
    decode_tokens: int = option(type=whole(1), default=32, metavar="N", help="tokens of a decode")
    count: Optional[int] = count_option("how many rounds of A B", shown_default="until they part")
    device: str = device_option()
    force: bool = record_force_option()


def run(args: BenchCompareArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.bench_compare(
        tuple(args.models),
        runtimes=tuple(args.runtimes),
        metrics=tuple(args.metrics),
        batch_sizes=tuple(args.batch_sizes),
        prompt_tokens=args.prompt_tokens,
        decode_tokens=args.decode_tokens,
        count=args.count,
        device=args.device,
        **args.held(),
        plugins=tuple(args.plugin),
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="results", page=page, subject=", ".join(args.models))
    result.sections = sections(result.data)
    return result


def sections(data: Mapping[str, Any]) -> list[Section]:
    """Returns the contestants, and what each reached."""
    parts: list[Section] = [contestants(data)]
    columns, table = rows(data["results"])
    return [*parts, Table(columns, table, "results")] if table else parts


def contestants(data: Mapping[str, Any]) -> Table:
    known = [n for n in CONTESTANTS if any(n in row for row in data["contestants"])]
    return table_of(data["contestants"], known, "contestants")
