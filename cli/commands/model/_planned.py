"""The commands of `bitnet model` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import key_value, named, option
from ...options import (
    ModelArgs,
    device_option,
    force_option,
    metrics_option,
    model_option,
    output_option,
    yes_option,
)
from ...planned import Planned


@dataclass
class PairArgs(ModelArgs):
    """Two models; base class of compare and diff."""

    model1: str = option(metavar="MODEL", positional=True, needed=True, help="the first model")
    model2: str = option(metavar="MODEL", positional=True, needed=True, help="the second model")


@dataclass
class CompareArgs(PairArgs):
    """Options of `bitnet model compare`."""

    metrics: list[str] = metrics_option("accuracy", "size", "speed")
    text: Optional[str] = option(
        type=named, metavar="FILE", help="the text that both read", shown_default="built in"
    )
    device: str = device_option()


@dataclass
class DiffArgs(PairArgs):
    """Options of `bitnet model diff`."""


@dataclass
class EditArgs(ModelArgs):
    """Options of `bitnet model edit`."""

    model: str = model_option("-i", "--input")
    output: str = output_option(help="the file or folder to write", needed=True)
    set: list[str] = option(
        default_factory=list,
        type=key_value,
        repeat=True,
        metavar="KEY=VALUE",
        help="set an entry of the metadata; may be repeated",
    )
    unset: list[str] = option(
        "-u",
        "--unset",
        default_factory=list,
        type=str,
        repeat=True,
        metavar="KEY",
        help="remove an entry of the metadata; may be repeated",
    )
    chat_template: Optional[str] = option(
        type=named, metavar="FILE", help="the chat template to put in"
    )
    force: bool = force_option()


@dataclass
class PublishArgs(ModelArgs):
    """Options of `bitnet model publish`."""

    model: str = model_option("-i", "--input")
    repo: str = option(
        metavar="hf://ORG/NAME", positional=True, needed=True, help="where it is published"
    )
    message: Optional[str] = option(metavar="TEXT", help="what the change is about")
    private: bool = option(default=False, help="only its owner may see it")
    yes: bool = yes_option("publish without showing the difference and asking")


PLANNED = {
    "compare": Planned(
        CompareArgs,
        "bitnet model compare --model1 original.hf --model2 quantized.bitnet "
        "--metrics accuracy,size,speed",
        "bitnet model compare original.hf quantized.bitnet --json",
    ),
    "edit": Planned(
        EditArgs,
        "bitnet model edit model.bitnet -o named.bitnet --set general.name=Tiny",
        "bitnet model edit model.bitnet -o chat.bitnet --chat-template chat.jinja",
    ),
    "diff": Planned(
        DiffArgs,
        "bitnet model diff before.bitnet after.bitnet",
        "bitnet model diff model.hf model.bitnet --json",
    ),
    "publish": Planned(
        PublishArgs,
        "bitnet model publish model.hf hf://me/my-model",
        'bitnet model publish model.hf hf://me/my-model --message "first" --private',
    ),
}
