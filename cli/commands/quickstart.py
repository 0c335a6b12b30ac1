"""`bitnet quickstart`: train, pack, run and prove a small model, in one go."""

# ruff: noqa: UP045
import shlex
import textwrap
from dataclasses import dataclass
from typing import Optional

from ..context import Context
from ..fields import number, option
from ..options import dump_passes_option, force_option, output_option, seed_option
from ..pages import training
from ..result import CommandResult, Pairs, Section, Text, show, spelled_out

EXAMPLES = (
    "bitnet quickstart",
    "bitnet quickstart --minutes 1 --output first-model --seed 1",
)

DETAILS = """\
Trains on the sources and docstrings of this machine's Python standard library, writes
OUTPUT/model.bitnet, generates with the CPU kernel, and shows that training, file and kernel hold
the same weights."""


@dataclass
class QuickstartArgs:
    """Options of `bitnet quickstart`."""

    output: str = output_option(help="the folder to write", default="quickstart")
    minutes: Optional[float] = option(
        type=number(0.0, above=True),
        metavar="N",
        shown_default="as many as a small model needs",
        help="how long to train",
    )
    seed: int = seed_option()
    force: bool = force_option("replace the folder if it exists")
    dump_passes: Optional[str] = dump_passes_option()


def run(args: QuickstartArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.quickstart(
        output=args.output,
        minutes=args.minutes,
        seed=args.seed,
        force=args.force,
        keep_compiled=True,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, page=training.quickstart, subject=args.output, rows="curve")
    result.sections = _sections(result.data, args.output, ctx.program)
    return result


def _sections(data: dict, output: str, program: str) -> list[Section]:
    digest = data["digest"]
    stages = [f"{stage} {value['trits'][:16]}" for stage, value in digest.items()]
    same = len({(v["trits"], v["trits_scales"]) for v in digest.values()}) == 1
    model = next((p for p in data["files"] if str(p).endswith(".bitnet")), f"{output}/model.bitnet")
    rows = [
        ("trained on", f"{data['tokens']:,} tokens"),
        ("held-out loss", f"{data['heldout_loss']:.4f} nats per token"),
        ("unigram entropy", f"{data['unigram_entropy']:.4f} (what counting words alone reaches)"),
        ("same weights", f"{'yes' if same else 'NO'}: {', '.join(stages)}"),
        ("largest logit difference", data["max_logit_difference"]),
        ("median logit difference", data["median_logit_difference"]),
        ("top-1 agreement", data["top1_agreement"]),
        ("transformers", _transformers(data["transformers"])),
        ("decode tokens/s", data["decode_tokens_per_second"]),
        ("kernel", f"{data['kernel']}: {data['kernel_reason']}"),
        ("bits per weight", data["bits_per_weight"]),
        ("model file", f"{model}, {data['file_bytes']:,} bytes"),
        ("files", data["files"]),
    ]
    written = textwrap.indent(spelled_out(data["prompt"] + data["text"]), "  ")
    path, prompt = shlex.quote(model), shlex.quote(data["prompt"])
    steps = [f"{program} model inspect {path}", f"{program} generate {path} {prompt}"]
    return [
        Pairs(rows),
        Text(f"what it writes after `{data['prompt']}`\n{written}"),
        Text("next\n" + "\n".join(f"  {step}" for step in steps)),
    ]


def _transformers(check: dict | None) -> str:
    """Returns what `transformers` made of the exported model, beside the kernel's logits."""
    if check is None:
        return "not installed: not checked"
    figures = [f"{name.replace('_', ' ')} {show(value)}" for name, value in check.items()]
    return f"reads the exported model: {', '.join(figures)}"
