"""`bitnet quickstart`: train, pack, run and prove a small model, in one go."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ..context import Context
from ..fields import number, option
from ..options import force_option, output_option, seed_option
from ..result import CommandResult, Pairs, Text

EXAMPLES = (
    "bitnet quickstart",
    "bitnet quickstart --minutes 1 --output first-model --seed 1",
)

DETAILS = """\
Trains on text that comes with the package, writes OUTPUT/model.bitnet, generates with the CPU
kernel, and shows that training, file and kernel hold the same weights."""


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


def run(args: QuickstartArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.quickstart(
        output=args.output,
        minutes=args.minutes,
        seed=args.seed,
        force=args.force,
        progress=ctx.progress,
    )
    result = CommandResult.of(record)
    result.sections = _sections(result.data, args.output)
    return result


def _sections(data: dict, output: str) -> list:
    digest = data["digest"]
    stages = [f"{stage} {value['trits'][:16]}" for stage, value in digest.items()]
    same = len({(v["trits"], v["trits_scales"]) for v in digest.values()}) == 1
    rows = [
        ("held-out loss", f"{data['heldout_loss']:.4f} nats per token"),
        ("unigram entropy", f"{data['unigram_entropy']:.4f} (what counting words alone reaches)"),
        ("same weights", f"{'yes' if same else 'NO'}: {', '.join(stages)}"),
        ("largest logit difference", data["max_logit_difference"]),
        ("median logit difference", data["median_logit_difference"]),
        ("top-1 agreement", data["top1_agreement"]),
        ("decode tokens/s", data["decode_tokens_per_second"]),
        ("bits per weight", data["bits_per_weight"]),
        ("files", data["files"]),
    ]
    files = data["files"]
    paths = files.values() if isinstance(files, dict) else files
    model = next((p for p in paths if str(p).endswith(".bitnet")), f"{output}/model.bitnet")
    steps = [f"bitnet model inspect {model}", f'bitnet generate {model} "The"']
    return [Pairs(rows), Text("next\n" + "\n".join(f"  {step}" for step in steps))]
