"""The commands of `bitnet bench` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import named, option, size
from ...options import (
    ModelArgs,
    count_option,
    device_option,
    model_option,
)
from ...planned import Planned


@dataclass
class BenchProfileArgs(ModelArgs):
    """Options of `bitnet bench profile`."""

    model: str = model_option()
    input_shape: str = option(
        "-I",
        "--input-shape",
        type=size,
        default="512",
        metavar="SHAPE",
        help="512 tokens, or 4x512 for four sequences of them",
    )
    profile_memory: bool = option(default=False, help="memory per layer and op, too")
    profile_gpu: bool = option(default=False, help="the GPU's own counters, too")
    trace: Optional[str] = option(
        type=named, metavar="DIR", help="write a trace for XProf and Perfetto"
    )
    device: str = device_option()


@dataclass
class EvalArgs(ModelArgs):
    """Options of `bitnet bench eval`."""

    model: str = model_option()
    tasks: list[str] = option(
        default_factory=lambda: ["perplexity"],
        type=str,
        repeat=True,
        commas=True,
        metavar="LIST",
        help="tasks of lm-evaluation-harness, or perplexity, separated by commas",
    )
    text: Optional[str] = option(
        type=named, metavar="FILE", help="the text of the perplexity", shown_default="built in"
    )
    count: Optional[int] = count_option("how many examples of each task", shown_default="all")
    device: str = device_option()


PLANNED = {
    "profile": Planned(
        BenchProfileArgs,
        "bitnet bench profile --model model.bitnet --input-shape 512 --profile-memory "
        "--profile-gpu",
        "bitnet bench profile model.bitnet --input-shape 4x512 --trace trace",
    ),
    "eval": Planned(
        EvalArgs,
        "bitnet bench eval model.bitnet --tasks arc_easy,piqa",
        "bitnet bench eval model.bitnet --tasks perplexity --text book.txt",
    ),
}
