"""`bitnet bench run`: how fast a model runs here, beside what the machine can do."""

# ruff: noqa: UP045
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ... import batch
from ...context import Context
from ...fields import option, whole
from ...options import (
    EngineArgs,
    ManyModelsArgs,
    batch_sizes_option,
    count_option,
    device_option,
    models_option,
    probe_mib_option,
    record_force_option,
)
from ...pages.bench_run import page, rows
from ...result import CommandResult, Measure, Pairs, Section, Table

EXAMPLES = (
    "bitnet bench run --model model.bitnet --device auto --batch-sizes 1,4,8,16",
    "bitnet bench run model.bitnet --export-json results.json",
)

DETAILS = """\
Prefill and decode are measured apart, one after another in rounds, until the interval of each
median is within 2 %. Prompts are random ids: no tokenizer is needed. `bitnet bench regression`
compares two of its records (docs/bench.md says what each figure means)."""

# A row for each of several models.
SUMMARY = ("bandwidth_gb_s", "receipt.kernel", "receipt.weight_bytes")


@dataclass
class BenchRunArgs(ManyModelsArgs, EngineArgs):
    """Options of `bitnet bench run`."""

    model: list[str] = models_option()
    device: str = device_option()
    batch_sizes: list[int] = batch_sizes_option()
    prompt_tokens: Optional[int] = option(
        type=whole(1),
        metavar="N",
        shown_default="512, or the whole context",
        help="tokens of a prefill",
    )
    decode_tokens: Optional[int] = option(
        type=whole(1),
        metavar="N",
        shown_default="64, or what the context holds",
        help="tokens of a decode",
    )
    count: Optional[int] = count_option(
        "how often each is measured", shown_default="until the interval is narrow"
    )
    probe_mib: Optional[int] = probe_mib_option()
    force: bool = record_force_option(several=True)


def run(args: BenchRunArgs, ctx: Context) -> CommandResult:
    return batch.each(bench_run, args, ctx, columns=SUMMARY, pages=True)


def bench_run(model: str, args: BenchRunArgs, ctx: Context) -> CommandResult:
    """Measures one model."""
    from bitnet_jax import api

    record = api.bench_run(
        model,
        device=args.device,
        batch_sizes=tuple(args.batch_sizes),
        prompt_tokens=args.prompt_tokens,
        decode_tokens=args.decode_tokens,
        count=args.count,
        **args.held(),
        probe_bytes=None if args.probe_mib is None else args.probe_mib << 20,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="results", page=page, subject=model)
    result.sections = sections(result.data)
    return result


def sections(data: Mapping[str, Any]) -> list[Section]:
    """Returns what a person needs: the machine's limits, the rows, what ran."""
    machine, receipt = data["machine"], data["receipt"]
    limits = [
        ("machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("memory read", Measure(data["bandwidth_gb_s"], "GB/s")),
        ("int8", Measure(data["int8_peak_tops"], "TOP/s")),
        ("profile", data["profile"]),
        ("kernel", receipt["kernel"]),
        ("weights held, packed", Measure(receipt["weight_bytes"], "bytes")),
        ("weights unpacked to floats", receipt["unpacked_weights"]),
    ]
    return [Pairs(limits), Table(*rows(data["results"]))]
