"""`bitnet train qat`: from a float checkpoint to a ternary model."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...context import Context
from ...fields import named, option
from ...options import (
    ModelArgs,
    dump_passes_option,
    model_option,
    output_option,
    precision_option,
    record_force_option,
    resume_option,
)
from ...pages import training
from ...result import CommandResult, sections_of

EXAMPLES = (
    "bitnet train qat --model model.hf --precision 1.58 --config configs/qat.yaml",
    "bitnet quant train --config configs/qat.yaml --model-path model.hf --output-dir ./outputs",
)

DETAILS = """\
Writes OUTPUT-DIR/model.bitnet. docs/training.md describes recipes; configs/qat.yaml is one."""


@dataclass
class TrainQatArgs(ModelArgs):
    """Options of `bitnet train qat`."""

    model: str = model_option("--model-path")
    config: str = option(
        "-c", "--config", type=named, metavar="FILE", needed=True, help="the recipe (YAML)"
    )
    output: Optional[str] = output_option(
        "--output-dir", help="the run's folder", shown_default="runs/ID"
    )
    precision: str = precision_option("1.58")
    resume_from: Optional[str] = resume_option()
    force: bool = record_force_option()
    dump_passes: Optional[str] = dump_passes_option()


def run(args: TrainQatArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.train_qat(
        model=args.model,
        config=args.config,
        output=args.output,
        precision=args.precision,
        resume_from=args.resume_from,
        offline=args.offline or None,
        keep_compiled=True,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=training.page, rows="curve")
    result.subject = str(result.data.get("run_dir") or "")
    result.sections = sections_of(training.without_curves(result.data))
    return result
