"""`bitnet quant convert`: a float model, quantized under rules, with the measured loss."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Any, Optional

from ... import batch
from ...context import Context
from ...fields import named, option
from ...options import (
    ManyModelsArgs,
    ModelArgs,
    encoding_option,
    force_option,
    format_option,
    jobs_option,
    models_option,
    output_option,
    precision_option,
    qat_config_option,
    text_option,
    text_tokens_option,
)
from ...pages.quant_convert import page
from ...pages.quant_validate import losses
from ...result import CommandResult, Pairs
from ..model.convert import SUFFIXES

EXAMPLES = (
    "bitnet quant convert --input model.hf --output model.bitnet --precision 1.58 "
    "--qat-config config.yaml",
    "bitnet model quantize a.hf b.hf --output-dir packed",
)

DETAILS = """\
Nothing is trained: the loss before and after, measured on the same text, says what that costs.
--method absmean rounds each matrix by itself; gptq feeds each column's error into those after it,
over inputs from calibration text. docs/quantize.md compares them. Several models go into
--output-dir (`bitnet help batch`)."""


@dataclass
class QuantConvertArgs(ManyModelsArgs, ModelArgs):
    """Options of `bitnet quant convert`."""

    model: list[str] = models_option("-i", "--input")
    output: Optional[str] = output_option(
        help="the file or folder to write", needed=True, unless=("output_dir", "manifest")
    )
    precision: str = precision_option("1.58", "4", "6", "8")
    method: str = option(
        choices=("absmean", "gptq"), default="absmean", help="how codes are chosen"
    )
    qat_config: Optional[str] = qat_config_option()
    format: Optional[str] = format_option()
    encoding: Optional[str] = encoding_option("packed")
    text: Optional[str] = text_option("the text that the loss is measured on")
    tokens: int = text_tokens_option()
    calibration: Optional[str] = option(
        type=named,
        metavar="FILE",
        help="the text that --method gptq takes inputs from",
        shown_default="Python's own library, another part",
    )
    jobs: int = jobs_option("how many models at once, each in a process")
    force: bool = force_option()


def run(args: QuantConvertArgs, ctx: Context) -> CommandResult:
    return batch.each(convert, args, ctx, written=batch.Models(SUFFIXES, _made))


def _asked(args: QuantConvertArgs) -> dict[str, Any]:
    return {
        "precision": args.precision,
        "method": args.method,
        "recipe": args.qat_config,
        "format": args.format,
        "encoding": args.encoding,
        "text": args.text,
        "tokens": args.tokens,
        "calibration": args.calibration,
        "offline": args.offline or None,
    }


def _made(item: batch.Item) -> Any:
    """Returns the record of this quantization if it was made before and still holds."""
    from bitnet_jax import api

    return api.quant_converted(item.model, item.args.output, **_asked(item.args))


def convert(model: str, args: QuantConvertArgs, ctx: Context) -> CommandResult:
    """Quantizes one model."""
    from bitnet_jax import api

    assert args.output is not None  # needed, or named by the batch
    record = api.quant_convert(
        source=model,
        output=args.output,
        **_asked(args),
        force=args.force,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=page, subject=args.output)
    data, about = result.data, result.data["quantized"]
    result.sections = [
        Pairs(
            [
                *((name, about[name]) for name in ("precision", "method", "linears", "weights")),
                ("outputs", data["outputs"]),
                *((name, data[name]) for name in ("format", "encoding", "receipt") if name in data),
                *((f"digest {name}", value) for name, value in data["digest_after"].items()),
            ]
        ),
        Pairs(losses(data["losses"]), title="measured on the same text"),
    ]
    return result
