"""The commands of `bitnet quant` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import named, number, option
from ...options import (
    ManyModelsArgs,
    ModelArgs,
    device_option,
    encoding_option,
    export_metrics_option,
    force_option,
    format_option,
    jobs_option,
    model_option,
    models_option,
    output_option,
    precision_option,
    seed_option,
)
from ...planned import Planned


@dataclass
class AnalyzeArgs(ModelArgs):
    """Options of `bitnet quant analyze`."""

    model: str = model_option("-i", "--input")
    precision: str = precision_option("1.58")
    text: Optional[str] = option(
        type=named, metavar="FILE", help="the text that it is measured on", shown_default="built in"
    )
    export_metrics: Optional[str] = export_metrics_option()
    device: str = device_option()
    force: bool = force_option("replace the file of --export-metrics if it exists")


@dataclass
class QuantConvertArgs(ManyModelsArgs, ModelArgs):
    """Options of `bitnet quant convert`."""

    model: list[str] = models_option("-i", "--input")
    output: Optional[str] = output_option(help="the file or folder to write")
    precision: str = precision_option("1.58", "4", "6", "8")
    qat_config: Optional[str] = option(
        type=named, metavar="FILE", help="the recipe whose rules say what becomes ternary (YAML)"
    )
    format: Optional[str] = format_option()
    encoding: Optional[str] = encoding_option("packed")
    jobs: int = jobs_option("how many models at once")
    force: bool = force_option()


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
    text: Optional[str] = option(
        type=named, metavar="FILE", help="the text that both read", shown_default="built in"
    )
    device: str = device_option()


@dataclass
class OptimizeArgs(ModelArgs):
    """Options of `bitnet quant optimize`."""

    model: str = model_option("-i", "--input")
    dataset: Optional[str] = option(
        type=named, metavar="FILE", help="the texts to tune on (JSON Lines); a part is held out"
    )
    optimize_for: str = option(
        choices=("accuracy", "size", "speed"), default="accuracy", help="what gets better"
    )
    output: Optional[str] = output_option(
        help="the file to write", shown_default="MODEL-optimized.bitnet"
    )
    seed: int = seed_option()
    device: str = device_option()
    force: bool = force_option()


PLANNED = {
    "analyze": Planned(
        AnalyzeArgs,
        "bitnet quant analyze --model model.hf --precision 1.58 --export-metrics metrics.json",
        "bitnet model analyze model.hf --json",
    ),
    "convert": Planned(
        QuantConvertArgs,
        "bitnet quant convert --input model.hf --output model.bitnet --precision 1.58 "
        "--qat-config config.yaml",
        "bitnet model quantize a.hf b.hf --output-dir packed",
    ),
    "validate": Planned(
        QuantValidateArgs,
        "bitnet quant validate --model quantized.bitnet --reference original.hf --tolerance 0.03",
        "bitnet quant validate quantized.bitnet original.hf --metric top1",
    ),
    "optimize": Planned(
        OptimizeArgs,
        "bitnet quant optimize --model model.bitnet --dataset data.jsonl --optimize-for accuracy",
        "bitnet quant optimize model.bitnet --optimize-for size -o small.bitnet",
    ),
}
