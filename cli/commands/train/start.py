"""`bitnet train start`: train as a recipe says."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...context import Context
from ...fields import named, option
from ...options import (
    ModelArgs,
    dump_passes_option,
    output_option,
    record_force_option,
    resume_option,
)
from ...pages import training
from ...result import CommandResult, sections_of

EXAMPLES = (
    "bitnet train start --config configs/training.yaml",
    "bitnet train start -c configs/training.yaml --resume-from runs/first --output runs/second",
)

DETAILS = """\
Ctrl-C and SIGTERM finish the step and save; the run can then be resumed (exit 75 after
SIGTERM). docs/training.md describes recipes; configs/training.yaml is one."""


@dataclass
class TrainStartArgs(ModelArgs):
    """Options of `bitnet train start`."""

    config: str = option(
        "-c", "--config", type=named, metavar="FILE", needed=True, help="the recipe (YAML)"
    )
    output: Optional[str] = output_option(
        "--output-dir", help="the run's folder", shown_default="runs/ID"
    )
    resume_from: Optional[str] = resume_option()
    force: bool = record_force_option()
    dump_passes: Optional[str] = dump_passes_option()


def run(args: TrainStartArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.train_start(
        config=args.config,
        output=args.output,
        resume_from=args.resume_from,
        offline=args.offline or None,
        keep_compiled=True,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=training.page, rows="curve")
    result.subject = str(result.data.get("run_dir") or "")
    result.sections = sections_of(training.without_curves(result.data))
    return result
