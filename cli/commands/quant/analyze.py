"""`bitnet quant analyze`: what ternarizing each layer would cost."""

# ruff: noqa: UP045
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ...context import Context
from ...fields import option
from ...options import (
    ModelArgs,
    device_option,
    export_metrics_option,
    force_option,
    model_option,
    precision_option,
    qat_config_option,
    seed_option,
    text_option,
    text_tokens_option,
)
from ...pages.quant_analyze import layer_rows, page, price_rows
from ...result import CommandResult, Pairs, Section, Text

EXAMPLES = (
    "bitnet quant analyze --model model.hf --precision 1.58 --export-metrics metrics.json",
    "bitnet model analyze model.hf --json",
)

DETAILS = """\
Every figure is of the model's own passes over the text. For each linear: what its weights and
outputs lose, what it costs to quantize it alone, and what keeping it gains where all others are
quantized. Both are predicted from backward passes and measured; --quick only predicts.
docs/quantize.md says what the names mean."""


@dataclass
class AnalyzeArgs(ModelArgs):
    """Options of `bitnet quant analyze`."""

    model: str = model_option("-i", "--input")
    precision: str = precision_option("1.58", "4", "6", "8")
    qat_config: Optional[str] = qat_config_option()
    text: Optional[str] = text_option("the text that it is measured on")
    tokens: int = text_tokens_option()
    quick: bool = option(
        "-Q",
        "--quick",
        default=False,
        help="predict what each linear costs; measure only the price of all",
    )
    seed: int = seed_option()
    device: str = device_option()
    export_metrics: Optional[str] = export_metrics_option()
    force: bool = force_option("replace the files of --export-metrics and --report if they exist")


def run(args: AnalyzeArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.quant_analyze(
        args.model,
        precision=args.precision,
        recipe=args.qat_config,
        text=args.text,
        tokens=args.tokens,
        quick=args.quick,
        seed=args.seed,
        device=args.device,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="layers", page=page, subject=args.model)
    result.sections = sections(result.data)
    return result


def sections(data: Mapping[str, Any]) -> list[Section]:
    """Returns the price, the linears by what keeping them gains, and which to keep."""
    keep, recovery = data["keep"], data["recovery"]
    return [
        Pairs(price_rows(data["price"]), title=f"price at {data['precision']} bits, no training"),
        layer_rows(data, title="linears, by what keeping them gains"),
        Text(
            ", ".join(keep["halves_the_kl"]) or "none",
            f"kept as they are, these halve the KL ({keep['by']})",
        ),
        Pairs(list(recovery.items()), title="to recover the rest by training"),
    ]
