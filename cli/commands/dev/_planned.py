"""The commands of `bitnet dev` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import option
from ...options import (
    DEVICES,
    ModelArgs,
    device_option,
    force_option,
    model_option,
    output_option,
    page_option,
    precision_option,
    yes_option,
)
from ...planned import Planned

REAL_DEVICES = tuple(name for name in DEVICES if name != "auto")


@dataclass
class InitArgs:
    """Options of `bitnet dev init`."""

    template: str = option(
        choices=("transformer",), default="transformer", help="what the project starts from"
    )
    precision: str = precision_option("1.58")
    output: str = output_option(help="the folder to write", default=".")
    force: bool = force_option("replace the files that it writes")


@dataclass
class TestArgs:
    """Options of `bitnet dev test`."""

    integration: bool = option(default=False, help="whole models, too, not only kernels")
    devices: list[str] = option(
        default_factory=lambda: ["cpu"],
        type=str,
        repeat=True,
        commas=True,
        choices=REAL_DEVICES,
        metavar="LIST",
        help="where they run, separated by commas; an absent one is skipped, and said",
    )
    require: list[str] = option(
        default_factory=list,
        type=str,
        repeat=True,
        commas=True,
        choices=REAL_DEVICES,
        metavar="DEVICE",
        help="a device whose absence is an error; may be repeated",
    )


@dataclass
class DevValidateArgs(ModelArgs):
    """Options of `bitnet dev validate`."""

    model: str = model_option()
    comprehensive: bool = option(
        "-C", "--comprehensive", default=False, help="every proof; says first how long it takes"
    )
    output: Optional[str] = page_option()
    device: str = device_option()


@dataclass
class WorkspaceArgs:
    """Options of `bitnet dev workspace`."""


@dataclass
class LspArgs:
    """Options of `bitnet dev lsp`."""


@dataclass
class InstallArgs:
    """Options of `bitnet dev install`."""

    extra: str = option(positional=True, needed=True, metavar="EXTRA", help="the extra: serve, ...")
    yes: bool = yes_option("install without asking")


@dataclass
class UpdateArgs:
    """Options of `bitnet dev update`."""

    check: bool = option(default=False, help="only say what there is")
    yes: bool = yes_option("update without asking")


PLANNED = {
    "init": Planned(
        InitArgs,
        "bitnet dev init --template transformer --precision 1.58",
        "bitnet dev init -o my-model",
    ),
    "test": Planned(
        TestArgs,
        "bitnet dev test --integration --devices cpu,metal,mlx",
        "bitnet dev test --devices cpu --require cpu",
    ),
    "validate": Planned(
        DevValidateArgs,
        "bitnet dev validate --model model.bitnet --comprehensive --output report.html",
        "bitnet dev validate model.bitnet --json",
    ),
    "workspace": Planned(WorkspaceArgs, "bitnet dev workspace", "bitnet dev workspace --json"),
    "lsp": Planned(LspArgs, "bitnet dev lsp", "bitnet dev lsp --log-file lsp.log"),
    "install": Planned(InstallArgs, "bitnet dev install serve", "bitnet dev install train --yes"),
    "update": Planned(UpdateArgs, "bitnet dev update --check", "bitnet dev update --yes"),
}
