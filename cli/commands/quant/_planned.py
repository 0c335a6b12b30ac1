"""The commands of `bitnet quant` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import named, option
from ...options import (
    ModelArgs,
    device_option,
    force_option,
    model_option,
    output_option,
    seed_option,
)
from ...planned import Planned


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
    "optimize": Planned(
        OptimizeArgs,
        "bitnet quant optimize --model model.bitnet --dataset data.jsonl --optimize-for accuracy",
        "bitnet quant optimize model.bitnet --optimize-for size -o small.bitnet",
    ),
}
