"""`bitnet model validate`: the checkpoint doctor."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from bitnet_jax.core.errors import CheckFailed

from ... import batch
from ...context import Context
from ...fields import named, option
from ...options import (
    ManyModelsArgs,
    ModelArgs,
    jobs_option,
    models_option,
    page_option,
    record_force_option,
)
from ...pages.validate import COLUMNS, page
from ...result import CommandResult, Text, table_of

EXAMPLES = (
    "bitnet model validate model.bitnet",
    "bitnet model validate --input model.bitnet --check-weights --check-quantization",
)

DETAILS = """\
Without --check-weights and --check-quantization both are done. Exits with 1 when a finding is
an error."""


@dataclass
class ValidateArgs(ManyModelsArgs, ModelArgs):
    """Options of `bitnet model validate`."""

    model: list[str] = models_option("-i", "--input")
    check_weights: bool = option(
        default=False, help="look at the values: zero tensors, NaN, constant rows, checksums"
    )
    check_quantization: bool = option(
        default=False, help="look at trits and scales: histograms, inverted scales, digests"
    )
    receipt: Optional[str] = option(
        type=named,
        metavar="FILE",
        built=False,
        help="derive every claim of this receipt again, from --source",
    )
    source: Optional[str] = option(
        metavar="MODEL", built=False, help="with --receipt: the model that it was made from"
    )
    jobs: int = jobs_option("how many models at once, each in a process")
    output: Optional[str] = page_option()
    force: bool = record_force_option(several=True)


def run(args: ValidateArgs, ctx: Context) -> CommandResult:
    return batch.each(validate, args, ctx, pages=True)


def validate(model: str, args: ValidateArgs, ctx: Context) -> CommandResult:
    """Checks one model."""
    from bitnet_jax import api

    everything = not (args.check_weights or args.check_quantization)
    record = api.validate(
        model,
        check_weights=args.check_weights or everything,
        check_quantization=args.check_quantization or everything,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="findings", page=page, subject=model)
    findings = result.data["findings"]
    if not findings:
        result.sections = [Text(f"{model}: nothing to mend")]
        return result
    known = [name for name in COLUMNS if any(name in finding for finding in findings)]
    result.sections = [table_of(findings, known)]
    wrong = [finding for finding in findings if finding["severity"] == "error"]
    if wrong:
        codes = ", ".join(sorted({finding["code"] for finding in wrong}))
        result.fail(
            CheckFailed(
                "model.validate_failed",
                f"`{model}` has {len(wrong)} finding(s) of severity error: {codes}",
                "each finding's `fix` says what to do",
            )
        )
    return result
