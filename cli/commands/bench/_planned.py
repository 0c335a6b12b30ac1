"""The commands of `bitnet bench` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import named, option
from ...options import (
    ModelArgs,
    count_option,
    device_option,
    model_option,
)
from ...planned import Planned


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
    "eval": Planned(
        EvalArgs,
        "bitnet bench eval model.bitnet --tasks arc_easy,piqa",
        "bitnet bench eval model.bitnet --tasks perplexity --text book.txt",
    ),
}
