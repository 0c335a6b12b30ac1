"""`bitnet model compare`: two models side by side: weights, answers, size, speed."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...context import Context
from ...fields import named, option, whole
from ...options import (
    PairArgs,
    count_option,
    device_option,
    metrics_option,
    record_force_option,
)
from ...pages.compare import measures, page
from ...result import CommandResult, Section, table_of

EXAMPLES = (
    "bitnet model compare --model1 original.hf --model2 quantized.bitnet "
    "--metrics accuracy,size,speed",
    "bitnet model compare original.hf quantized.bitnet --json",
)

DETAILS = """\
Any two formats. Both read the same text: without --text, Python's library. Each runs in turn, in
`speed` A B A B in processes of their own. What cannot be compared (other tokens, other shapes) is
told with the reason. A float model's trits are those that its absmean gives.
`bitnet model diff` tells what differs, bit by bit."""


@dataclass
class CompareArgs(PairArgs):
    """Options of `bitnet model compare`."""

    metrics: list[str] = metrics_option("accuracy", "size", "speed")
    text: Optional[str] = option(
        type=named, metavar="FILE", help="the text that both read", shown_default="built in"
    )
    tokens: int = option(
        type=whole(32), default=1024, metavar="N", help="how many tokens of it they read"
    )
    count: Optional[int] = count_option("how many rounds of A B", shown_default="until they part")
    device: str = device_option()
    force: bool = record_force_option()


def run(args: CompareArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.compare(
        args.model1,
        args.model2,
        metrics=tuple(args.metrics),
        text=args.text,
        tokens=args.tokens,
        count=args.count,
        device=args.device,
        plugins=tuple(args.plugin),
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="table", page=page)
    result.subject = f"{args.model1} and {args.model2}"
    sections: list[Section] = [measures(result.data)]
    if result.data["words"]:
        sections.append(
            table_of(
                result.data["words"],
                ("part", "name", "what", "first", "second"),
                title="words that differ",
            )  # fmt: skip
        )
    if result.data["not_compared"]:
        sections.append(table_of(result.data["not_compared"], title="not compared"))
    result.sections = sections
    return result
