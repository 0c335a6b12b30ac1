"""`bitnet quant validate`: a quantized model against its original, within a tolerance."""

# ruff: noqa: UP045
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from bitnet_jax.core.errors import CheckFailed

from ...context import Context
from ...fields import number, option
from ...options import (
    ModelArgs,
    device_option,
    model_option,
    record_force_option,
    text_option,
    text_tokens_option,
)
from ...pages.quant_analyze import interval
from ...pages.quant_validate import page, rows
from ...result import CommandResult, Pairs

EXAMPLES = (
    "bitnet quant validate --model quantized.bitnet --reference original.hf --tolerance 0.03",
    "bitnet quant validate quantized.bitnet original.hf --metric top1",
)

DETAILS = """\
ppl: the perplexity over the original's, less 1. kl: KL from the original, nats per token. logits:
mean over tokens of the largest difference of a logit, over the largest. top1: the share of tokens
whose first choice differs. Both read the same tokens; the interval is over windows of text. Exits
with 1 above the tolerance."""


@dataclass
class QuantValidateArgs(ModelArgs):
    """Options of `bitnet quant validate`."""

    model: str = model_option("-i", "--input")
    reference: str = option(
        metavar="MODEL", positional=True, needed=True, help="the original that it came from"
    )
    tolerance: float = option(
        "-T",
        "--tolerance",
        type=number(0.0),
        default=0.03,
        metavar="SHARE",
        help="how much worse it may be, as a share; above it the exit code is 1",
    )
    metric: str = option(
        choices=("ppl", "kl", "logits", "top1"), default="ppl", help="what is measured"
    )
    text: Optional[str] = text_option("the text that both read")
    tokens: int = text_tokens_option()
    device: str = device_option()
    force: bool = record_force_option()


def run(args: QuantValidateArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.quant_validate(
        args.model,
        args.reference,
        tolerance=args.tolerance,
        metric=args.metric,
        text=args.text,
        tokens=args.tokens,
        device=args.device,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=page, subject=args.model)
    result.sections = [Pairs(rows(result.data))]
    if not result.data["passed"]:
        result.fail(failed(args.model, args.reference, result.data))
    return result


def failed(model: str, reference: str, data: Mapping[str, Any]) -> CheckFailed:
    """Returns the error of a model above the tolerance."""
    side = "" if data["certain"] else "; the interval reaches below it: more --tokens narrow it"
    return CheckFailed(
        "quant.tolerance_exceeded",
        f"`{model}` against `{reference}`: {data['metric']} is {data['value']:.4g} "
        f"({interval(data)}), above the tolerance {data['tolerance']:g}{side}",
        "`bitnet quant analyze` of the original says which linears cost most; `bitnet train qat` "
        "trains with quantization",
    )
