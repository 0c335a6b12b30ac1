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
    models_option,
    models_or_threads_option,
    no_probe_option,
    page_option,
    record_force_option,
)
from ...pages.validate import COLUMNS, page
from ...result import CommandResult, Text, table_of

EXAMPLES = (
    "bitnet model validate model.bitnet",
    "bitnet model validate --input model.bitnet --check-weights --check-quantization",
    "bitnet model validate model.bitnet --receipt model.receipt.json --source model.hf",
)

DETAILS = """\
Without --check-weights and --check-quantization both are done. With --receipt every claim of the
receipt is derived again from the two models, and one byte that changed on either side is named.
Exits with 1 when a finding is an error."""


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
        help="derive every claim of this receipt again, from --source",
    )
    source: Optional[str] = option(
        metavar="MODEL", help="with --receipt: the model that it was made from"
    )
    no_probe: bool = no_probe_option("with --receipt: do not run the two models")
    text: Optional[str] = option(
        type=named,
        metavar="FILE",
        help="with the --receipt of a quantization: the text that its losses were measured on",
        shown_default="the name in the receipt",
    )
    calibration: Optional[str] = option(
        type=named,
        metavar="FILE",
        help="with the --receipt of a quantization: the text that --method gptq read",
        shown_default="the name in the receipt",
    )
    jobs: Optional[int] = models_or_threads_option()
    output: Optional[str] = page_option()
    force: bool = record_force_option(several=True)


def run(args: ValidateArgs, ctx: Context) -> CommandResult:
    return batch.each(validate, args, ctx, pages=True)


def validate(model: str, args: ValidateArgs, ctx: Context) -> CommandResult:
    """Checks one model."""
    from bitnet_jax import api

    # With a receipt, it alone is checked unless more is asked for.
    everything = not (args.check_weights or args.check_quantization or args.receipt)
    record = api.validate(
        model,
        check_weights=args.check_weights or everything,
        check_quantization=args.check_quantization or everything,
        receipt=args.receipt,
        source=args.source,
        probe=not args.no_probe,
        text=args.text,
        calibration=args.calibration,
        jobs=args.jobs,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="findings", page=page, subject=model)
    findings = result.data["findings"]
    if not findings:
        proven = result.data.get("receipt")
        count = f"; {len(proven['claims'])} claims of {args.receipt} hold" if proven else ""
        result.sections = [Text(f"{model}: nothing to mend{count}")]
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
