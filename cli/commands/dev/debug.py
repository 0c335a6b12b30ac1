"""`bitnet dev debug`: activations op by op, and the first op at which two runs part."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Any, Optional

from bitnet_jax.core.errors import CheckFailed

from ...context import Context
from ...fields import named, number, option, whole
from ...options import ModelArgs, device_option, model_option, record_force_option
from ...pages.debug import activations, divergences, page, summary
from ...result import CommandResult

EXAMPLES = (
    "bitnet dev debug --model model.bitnet --input debug_input.json --verbose",
    "bitnet dev debug model.bitnet --against model.hf",
    "bitnet dev debug model.bitnet --against reference",
)

DETAILS = """\
Runs a prompt into the cache, then its last tokens one at a time, op by op. The input is JSON: a
list of token ids, or {"text": "..."} or {"tokens": [...]}, with "decode": how many at the end are
decoded. The model is held against its own run without a cache, and against a second model or
kernel (native, xla, reference). Each op is judged on the same inputs, so that what is told is
where it begins. Exits with 1 where runs part. -v shows every op; the record (--json) always
holds them."""


@dataclass
class DebugArgs(ModelArgs):
    """Options of `bitnet dev debug`."""

    model: str = model_option()
    input: Optional[str] = option(
        "-i",
        "--input",
        type=named,
        metavar="FILE",
        help="the tokens or the text (JSON)",
        shown_default="built in",
    )
    against: Optional[str] = option(
        "-A",
        "--against",
        type=named,
        metavar="MODEL",
        help="a second model, or a kernel by its name: tells the first op that diverges",
    )
    decode: Optional[int] = option(
        type=whole(0),
        metavar="N",
        shown_default="3, or as the input says",
        help="how many tokens at the end are decoded one at a time",
    )
    tolerance: Optional[float] = option(
        "-T",
        "--tolerance",
        type=number(0.0),
        metavar="X",
        shown_default="1e-6; 1e-5 against the run without a cache",
        help="how far results of an op may be apart, relative to its largest",
    )
    device: str = device_option()
    force: bool = record_force_option()


def run(args: DebugArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.debug(
        args.model,
        against=args.against,
        input=args.input,
        decode=args.decode,
        tolerance=args.tolerance,
        device=args.device,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="ops", page=page, subject=args.model)
    data = result.data
    result.sections = [summary(data), *divergences(data)]
    if ctx.settings["verbose"].value:
        result.sections.append(activations(data))
    first = data["first_divergence"]
    if first is not None:
        result.fail(_fault(args, data, first))
    return result


def _fault(args: DebugArgs, data: dict[str, Any], first: dict[str, Any]) -> CheckFailed:
    other = args.against if data["divergences"] else "its own run without a cache"
    return CheckFailed(
        "debug.diverges",
        f"`{args.model}` and {other} part at `{first['op']}`, in {first['phase']} at position "
        f"{first['position']}: {first['why']}",
        f"look at `{first['seen_at']}` and what it reads",
    )
