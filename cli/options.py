"""The options that every command has, and those that several share.

This file and the commands' files must not use postponed annotations or
`X | None`: argparse-dataclass reads the types as objects (`args.check` says so).
"""

# ruff: noqa: UP045
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional

from .fields import named, number, option, whole

# One letter means one thing on every command. An option's letter is its first one, small or
# capital, where that is left; tests/cli walks the registry against this.
LETTERS = {
    "a": "allow",
    "A": "against",
    "b": "batch-sizes",
    "B": "baseline",
    "c": "config",
    "C": "comprehensive",
    "d": "device",
    "D": "defect",
    "e": "emit",
    "E": "encoding",
    "f": "format",
    "F": "force",
    "h": "help",
    "H": "host",
    "i": "input",
    "I": "input-shape",
    "j": "jobs",
    "J": "json",
    "k": "top-k",
    "K": "kv",
    "l": "layers",
    "L": "log-file",
    "m": "model",
    "M": "metrics",
    "n": "count",
    "N": "no-input",
    "o": "output",
    "O": "output-dir",
    "p": "prompt",
    "P": "precision",
    "q": "quiet",
    "Q": "quick",
    "r": "resume-from",
    "R": "report",
    "s": "seed",
    "S": "settings",
    "t": "temperature",
    "T": "tolerance",
    "u": "unset",
    "v": "verbose",
    "V": "version",
    "w": "workers",
    "x": "export-json",
    "X": "export-metrics",
    "y": "yes",
}


# What --format may be: the formats that models are written in.
FORMATS = ("bitnet", "huggingface", "gguf", "safetensors", "onnx", "stablehlo")
# What the name of a model may end with, told by nothing but that.
MODEL_SUFFIXES = (
    ".bitnet",
    ".hf",
    ".gguf",
    ".onnx",
    ".safetensors",
    ".stablehlo",
)


@dataclass
class GlobalArgs:
    """Options of every command."""

    emit: Literal["table", "json", "jsonl", "yaml", "csv", "junit", "github"] = option(
        "-e",
        "--emit",
        default="table",
        help="how the record is printed; jsonl streams events while it runs",
    )
    json: bool = option(
        "-J", "--json", default=False, help="same as --emit json: one envelope, nothing else"
    )
    export_json: Optional[str] = option(
        "-x",
        "--export-json",
        nargs="?",
        const="-",
        type=named,
        metavar="FILE",
        help="write the record's data as JSON to FILE; without FILE to stdout, for the table",
    )
    report: Optional[str] = option(
        "-R",
        "--report",
        type=named,
        metavar="FILE",
        help="also write the record as one HTML page with charts, which opens offline",
    )
    progress: Literal["auto", "plain", "json", "none"] = option(
        default="auto", help="bar on a terminal, lines in a log, JSON lines, or nothing"
    )
    settings: Optional[str] = option(
        "-S", "--settings", type=named, metavar="FILE", help="settings file (TOML, YAML or JSON)"
    )
    profile: Optional[str] = option(
        metavar="NAME",
        help="named settings of this user (`bitnet dev profile`); none: not even the default ones",
        shown_default="as `bitnet dev profile default` says",
    )
    verbose: int = option("-v", "--verbose", default=0, count=True, help="say more; twice for all")
    quiet: bool = option("-q", "--quiet", default=False, help="say nothing but errors")
    no_input: bool = option(
        "-N", "--no-input", default=False, help="never ask; a missing option is an error"
    )
    log_file: Optional[str] = option(
        "-L", "--log-file", type=named, metavar="FILE", help="also write the log to FILE"
    )
    log_format: Literal["text", "json"] = option(default="text", help="how log lines are written")
    debug: bool = option(default=False, help="show the traceback of an error")


def model_option(*more: str):
    """The model: an option, and the first bare word."""
    return option(
        "-m",
        "--model",
        *more,
        type=named,
        metavar="MODEL",
        needed=True,
        positional=True,
        help="the model: a .bitnet, GGUF or ONNX file, a Hugging Face directory or .safetensors "
        "file, an Orbax checkpoint, an id in the local cache, or hf://org/name@revision, gs://..., s3://...",
    )


def models_option(*more: str):
    """One model or several: an option, and every bare word."""
    return option(
        "-m",
        "--model",
        *more,
        default_factory=list,
        type=named,
        repeat=True,
        nargs="+",
        metavar="MODEL",
        needed=True,
        unless=("manifest",),
        positional=True,
        help="the model, or several: a .bitnet, GGUF or ONNX file, a Hugging Face directory or "
        ".safetensors file, or an Orbax checkpoint",
    )


def output_option(
    *more: str,
    help: str,
    needed: bool = False,
    unless: tuple[str, ...] = (),
    default: Optional[str] = None,
    shown_default: Optional[str] = None,
):
    return option(
        "-o",
        "--output",
        *more,
        type=named,
        metavar="PATH",
        needed=needed,
        unless=unless,
        default=default,
        help=help,
        shown_default=shown_default,
    )


def page_option():
    """The output of a command that checks: the page that --report would write."""
    return option(
        "-o",
        "--output",
        type=named,
        metavar="FILE",
        report=True,
        help="write the findings as one HTML page; the same as --report",
    )


def format_option(help: str = "the output's format"):
    return option(
        "-f",
        "--format",
        choices=FORMATS,
        help=help,
        shown_default="by the output's name",
    )


def encoding_option(shown_default: str = "the source's, where the format has it"):
    return option(
        "-E",
        "--encoding",
        help="the format's variant: packed, master, tq2_0, i2_s, ... (`bitnet help formats`)",
        shown_default=shown_default,
    )


def allow_option():
    return option(
        "-a",
        "--allow",
        default_factory=list,
        type=str,
        repeat=True,
        commas=True,
        metavar="CODE",
        help="go on past this finding of the checks, and record it; may be repeated",
    )


def force_option(help: str = "replace the output if it exists"):
    return option("-F", "--force", default=False, help=help)


def record_force_option(*, several: bool = False):
    """--force of a command that writes nothing but its record, or those of `several` models."""
    files = "--report, --export-json and --output-dir" if several else "--report and --export-json"
    return force_option(f"replace the files of {files} if they exist")


def resume_option():
    return option(
        "-r",
        "--resume-from",
        type=named,
        metavar="PATH",
        help="go on from a run's folder, its checkpoints folder, or a numbered one in that",
    )


# `gpu` is whichever of CUDA and ROCm this machine has.
DEVICES = ("auto", "cpu", "gpu", "cuda", "rocm", "tpu", "metal", "mlx")


def device_option():
    return option(
        "-d",
        "--device",
        choices=DEVICES,
        default="auto",
        help="where it runs; auto takes the best there is and says which",
    )


def precision_option(*precisions: str):
    return option(
        "-P",
        "--precision",
        default="1.58",
        choices=precisions,
        help="bits per weight",
    )


def metrics_option(*metrics: str):
    return option(
        "-M",
        "--metrics",
        default_factory=lambda: list(metrics),
        type=str,
        repeat=True,
        commas=True,
        choices=metrics,
        metavar="LIST",
        help="what is compared or shown, separated by commas",
    )


def export_metrics_option():
    return option(
        "-X",
        "--export-metrics",
        type=named,
        metavar="FILE",
        export=True,
        help="write the record's data as JSON to FILE",
    )


def qat_config_option():
    return option(
        type=named,
        metavar="FILE",
        help="the recipe whose rules say which linears (YAML); the family's where it has none",
    )


def text_option(help: str):
    return option(
        type=named,
        metavar="FILE",
        help=f"{help}; for a model without a tokenizer a .jsonl file of token ids",
        shown_default="Python's own library",
    )


def text_tokens_option():
    return option(
        type=whole(32),
        default=4096,
        metavar="N",
        help="how many tokens of the text: more take longer and narrow the intervals",
    )


def count_option(help: str, default: Optional[int] = None, shown_default: Optional[str] = None):
    return option(
        "-n",
        "--count",
        type=whole(1),
        metavar="N",
        default=default,
        shown_default=shown_default,
        help=help,
    )


def batch_sizes_option():
    return option(
        "-b",
        "--batch-sizes",
        default_factory=lambda: [1],
        type=whole(1),
        repeat=True,
        commas=True,
        metavar="LIST",
        help="how many sequences at once, separated by commas",
    )


def probe_mib_option():
    return option(
        type=whole(32),
        metavar="N",
        shown_default="2048, or as much as memory allows",
        help="MiB of the buffer on which the memory's bandwidth is measured",
    )


def jobs_option(help: str):
    return option("-j", "--jobs", type=whole(1), default=1, metavar="N", help=help)


def models_or_threads_option():
    """Of several models, how many at once; of one, its threads (`batch` keeps the two apart)."""
    return option(
        "-j",
        "--jobs",
        type=whole(1),
        metavar="N",
        shown_default="one thread for each processor",
        help="how many models at once, each in a process; of one model, how many threads",
    )


def no_probe_option(help: str):
    return option("--no-probe", default=False, help=help)


def yes_option(help: str):
    return option("-y", "--yes", default=False, help=help)


def dump_passes_option():
    """Read by `session`: a command that compiles a model only declares it."""
    return option(
        type=named,
        metavar="DIR",
        help="write each program that is compiled, as traced and after each pass, into this new "
        "folder",
    )


def seed_option(default: Optional[int] = 0, shown_default: Optional[str] = None):
    return option(
        "-s",
        "--seed",
        type=whole(0),
        default=default,
        metavar="N",
        shown_default=shown_default,
        help="the same seed gives the same result",
    )


@dataclass
class PluginArgs:
    """Base class of every command that opens, makes, trains or runs a model.

    The files are run before the command is (`load_plugins`): never one that a model names.
    """

    plugin: list[str] = option(
        default_factory=list,
        type=named,
        repeat=True,
        metavar="FILE",
        help="run this Python file first: it adds a family of models (docs/write-a-family.md); "
        "may be repeated",
    )


def load_plugins(files: Sequence[str]) -> None:
    """Runs the Python files that the person named, before the command that they are for."""
    if files:
        from bitnet_jax import api

        for file in files:
            api.load_plugin(file)


@dataclass
class ManyModelsArgs:
    """Base class of every command that takes several models (`batch` runs it for each)."""

    manifest: Optional[str] = option(
        type=named,
        metavar="FILE",
        help="the models: a text file with one a line, or a YAML or JSON list; - reads stdin "
        "(`bitnet help batch`)",
    )
    output_dir: Optional[str] = option(
        "-O",
        "--output-dir",
        type=named,
        metavar="DIR",
        help="for several models: the folder for what comes of each; what is there already and "
        "still holds is skipped",
    )


@dataclass
class ModelArgs(PluginArgs):
    """Base class of every command that takes or writes what may be fetched, or uploaded."""

    offline: bool = option(
        default=False, help="fetch nothing: use what is on this machine, or fail (exit 69)"
    )


@dataclass
class PairArgs(ModelArgs):
    """Base class of every command that holds one model against another."""

    model1: str = option(
        type=named, metavar="MODEL", positional=True, needed=True, help="the first model"
    )
    model2: str = option(
        type=named, metavar="MODEL", positional=True, needed=True, help="the second model"
    )


@dataclass
class EngineArgs(ModelArgs):
    """How a model is held and run; base class of what runs one."""

    head: Optional[str] = option(
        choices=("int8", "int6", "int4"),
        shown_default="as the file has it",
        help="hold the embedding and the head in fewer bits: faster, and not exact",
    )
    kv: str = option(
        "-K",
        "--kv",
        default="float32",
        choices=("float32", "int8"),
        help="hold the KV cache in float32, or in int8: a quarter of the memory, and not exact",
    )
    layout: Optional[str] = option(
        choices=("t2.16x16", "t1.16x20"),
        shown_default="as the file has them",
        help="hold trits in 2 bits (t2.16x16) or 1.6 (t1.16x20): the same results",
    )
    threads: Optional[int] = option(
        type=whole(1),
        metavar="N",
        shown_default="one for each processor",
        help="threads of a CPU kernel",
    )

    def held(self) -> dict[str, Any]:
        """Returns how the model is held and run, by the names that the library has for it."""
        names = ("head", "kv", "layout", "threads")
        return {name: getattr(self, name) for name in names}


@dataclass
class SamplingArgs(EngineArgs):
    """How the next token is drawn; base class of generate and chat."""

    max_tokens: int = option(
        "-n",
        "--max-tokens",
        type=whole(1),
        default=64,
        metavar="N",
        help="stop after this many tokens",
    )
    temperature: float = option(
        "-t",
        "--temperature",
        type=number(0.0),
        default=0.0,
        metavar="T",
        help="0 always takes the likeliest token; higher is more varied",
    )
    top_k: int = option(
        "-k",
        "--top-k",
        type=whole(0),
        default=0,
        metavar="N",
        help="draw from the N likeliest tokens; 0 from all",
    )
    top_p: float = option(
        type=number(0.0, 1.0, above=True),
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens that hold this share of the probability",
    )
    min_p: float = option(
        type=number(0.0, 1.0),
        default=0.0,
        metavar="P",
        help="leave out tokens less likely than P times the likeliest",
    )
    seed: int = seed_option()
    stop: list[str] = option(
        default_factory=list,
        type=str,
        repeat=True,
        metavar="TEXT",
        help="stop before this text; may be repeated",
    )

    def sampling(self) -> dict[str, Any]:
        """Returns how the next token is drawn, by the names that the library has for it."""
        names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed")
        return {name: getattr(self, name) for name in names} | {"stop": tuple(self.stop)}

    force: bool = record_force_option()
    dump_passes: Optional[str] = dump_passes_option()
