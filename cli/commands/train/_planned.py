"""The commands of `bitnet train` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import named, option, whole
from ...options import (
    ModelArgs,
    encoding_option,
    force_option,
    format_option,
    jobs_option,
    model_option,
    output_option,
    page_option,
    resume_option,
    seed_option,
)
from ...planned import Planned


def recipe_option():
    return option(
        "-c", "--config", type=named, metavar="FILE", needed=True, help="the recipe (YAML)"
    )


def run_option(*names: str):
    return option(
        *names, metavar="RUN", positional=True, needed=True, help="the run's id or folder"
    )


@dataclass
class TrainValidateArgs(ModelArgs):
    """Options of `bitnet train validate`."""

    config: str = recipe_option()
    dry_run: bool = option(
        default=False, help="compile it, too: shapes, memory, FLOPs and bytes per device"
    )
    target: Optional[str] = option(
        metavar="TARGET", help="compile for this instead: v5e-64", shown_default="this machine"
    )
    output: Optional[str] = page_option()


@dataclass
class TrainMonitorArgs(ModelArgs):
    """Options of `bitnet train monitor`."""

    run_id: str = run_option()
    metrics_port: Optional[int] = option(
        type=whole(0),
        metavar="N",
        help="serve metrics, events and a page of charts on this port of the loopback",
    )
    once: bool = option(default=False, help="one look, then end")


@dataclass
class SweepArgs(ModelArgs):
    """Options of `bitnet train sweep`."""

    config: str = recipe_option()
    optimizer: str = option(
        "--optimizer",
        "--sampler",
        choices=("tpe", "random", "grid", "cmaes", "hyperopt"),
        default="tpe",
        help="what proposes the next trial",
    )
    trials: int = option(type=whole(1), default=20, metavar="N", help="how many trials")
    jobs: int = jobs_option("how many trials at once")
    output: Optional[str] = output_option(
        "--output-dir", help="the sweep's folder", shown_default="runs/ID"
    )
    resume_from: Optional[str] = resume_option()
    seed: int = seed_option()


@dataclass
class TrainListArgs(ModelArgs):
    """Options of `bitnet train list`."""

    runs: str = option(
        default="runs", type=named, metavar="DIR", help="the folder that holds the runs"
    )


@dataclass
class TrainResumeArgs(ModelArgs):
    """Options of `bitnet train resume`."""

    run_id: str = run_option()
    strict_resume: bool = option(
        default=False, help="fail where the newest checkpoint is damaged, take no older one"
    )


@dataclass
class TrainExportArgs(ModelArgs):
    """Options of `bitnet train export`."""

    run_id: str = run_option()
    output: str = output_option(help="the file or folder to write", needed=True)
    format: Optional[str] = format_option()
    encoding: Optional[str] = encoding_option("packed")
    force: bool = force_option()


@dataclass
class LaunchArgs(ModelArgs):
    """Options of `bitnet train launch`."""

    config: str = recipe_option()
    nproc: int = option(type=whole(1), default=1, metavar="N", help="how many processes")
    output: Optional[str] = output_option(
        "--output-dir", help="the run's folder", shown_default="runs/ID"
    )
    resume_from: Optional[str] = resume_option()


@dataclass
class TokenizeArgs(ModelArgs):
    """Options of `bitnet train tokenize`."""

    model: str = model_option("--tokenizer")
    input: str = option(
        "-i",
        "--input",
        type=named,
        metavar="PATH",
        needed=True,
        help="the texts: a file or a folder",
    )
    output: str = output_option(help="the folder to write", needed=True)
    jobs: int = jobs_option("how many processes")
    force: bool = force_option()


PLANNED = {
    "validate": Planned(
        TrainValidateArgs,
        "bitnet train validate --config training.yaml --dry-run",
        "bitnet train validate -c training.yaml --dry-run --target v5e-64",
    ),
    "monitor": Planned(
        TrainMonitorArgs,
        "bitnet train monitor --run-id train_123 --metrics-port 6006",
        "bitnet train monitor train_123 --once --json",
    ),
    "sweep": Planned(
        SweepArgs,
        "bitnet train sweep --config sweep.yaml --optimizer hyperopt --trials 50",
        "bitnet train sweep -c sweep.yaml --sampler random --trials 8 --jobs 2",
    ),
    "list": Planned(TrainListArgs, "bitnet train list", "bitnet train list --json"),
    "resume": Planned(
        TrainResumeArgs,
        "bitnet train resume train_123",
        "bitnet train resume runs/train_123 --strict-resume",
    ),
    "export": Planned(
        TrainExportArgs,
        "bitnet train export train_123 -o model.bitnet",
        "bitnet train export train_123 --format huggingface -o model.hf",
    ),
    "launch": Planned(
        LaunchArgs,
        "bitnet train launch --nproc 2 --config training.yaml",
        "bitnet train launch --nproc 8 -c training.yaml --resume-from runs/first",
    ),
    "tokenize": Planned(
        TokenizeArgs,
        "bitnet train tokenize model.hf --input texts --output tokens",
        "bitnet train tokenize --tokenizer model.hf -i data.jsonl -o tokens --jobs 4",
    ),
}
