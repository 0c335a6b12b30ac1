"""`bitnet bench profile`: where the time and the memory of a run go."""

# ruff: noqa: UP045
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ...context import Context
from ...fields import named, option, size
from ...options import EngineArgs, device_option, force_option, model_option
from ...pages.bench_profile import LAYERS, MEMORY, OPS, SLOWEST, kinds, page
from ...result import CommandResult, Measure, Pairs, Section, table_of

EXAMPLES = (
    "bitnet bench profile --model model.bitnet --input-shape 512 --profile-memory --profile-gpu",
    "bitnet bench profile model.bitnet --input-shape 4x512 --trace trace",
)

DETAILS = """\
The compiled program is run under XLA's profiler, as it always runs: what is fused stays fused.
A length of 1 is a decode step, any other a prefill. Times of instructions that run side by side
overlap; what is between them (dispatch) is in the wall time alone. docs/bench.md says how an
instruction finds its layer and op."""

FEW = 12


@dataclass
class BenchProfileArgs(EngineArgs):
    """Options of `bitnet bench profile`."""

    model: str = model_option()
    input_shape: str = option(
        "-I",
        "--input-shape",
        type=size,
        default="512",
        metavar="SHAPE",
        help="512 tokens, or 4x512 for four sequences of them; 1 is a decode step",
    )
    profile_memory: bool = option(default=False, help="memory per layer and op, too")
    profile_gpu: bool = option(default=False, help="the GPU's own counters, too")
    trace: Optional[str] = option(
        type=named, metavar="DIR", help="write a trace for XProf and Perfetto"
    )
    device: str = device_option()
    force: bool = force_option("replace the folder of --trace, and the files of the record")


def run(args: BenchProfileArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.bench_profile(
        args.model,
        input_shape=args.input_shape,
        profile_memory=args.profile_memory,
        profile_gpu=args.profile_gpu,
        trace_to=args.trace,
        force=args.force,
        device=args.device,
        **args.held(),
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="instructions", page=page, subject=args.model)
    result.sections = sections(result.data)
    return result


def sections(data: Mapping[str, Any]) -> list[Section]:
    """Returns the times, by layer and by op, and the slowest instructions."""
    cost = data["cost"]
    parts: list[Section] = [
        Pairs(
            [
                ("one run", Measure(data["wall_seconds"]["median"], "s")),
                ("of it in instructions", Measure(data["instruction_seconds"], "s")),
                ("int8 products", Measure(cost["int8_tops"], "TOP/s")),
                ("the rest, as XLA reckons it", Measure(cost["xla_gflop_s"], "GFLOP/s")),
                ("kernel", data["receipt"]["kernel"]),
            ]
        ),
        table_of(data["layers"], LAYERS, "layers"),
        table_of(data["ops"], OPS, "ops"),
        table_of(data["instructions"][:FEW], SLOWEST, "the slowest instructions"),
    ]
    if "memory" in data:
        parts.append(Pairs(kinds(data["memory"]), title="memory"))
        parts.append(table_of(data["memory"]["largest"][:FEW], MEMORY, "the largest results"))
    if data["trace"]:
        parts.append(Pairs([("trace", data["trace"])]))
    return parts
