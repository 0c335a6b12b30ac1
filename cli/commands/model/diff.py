"""`bitnet model diff`: are two files the same model, and if not, in what."""

from dataclasses import dataclass

from bitnet_jax.core.errors import CheckFailed

from ...context import Context
from ...options import PairArgs, record_force_option
from ...pages.diff import differences, page, summary
from ...result import CommandResult, Text

EXAMPLES = (
    "bitnet model diff before.bitnet after.bitnet",
    "bitnet model diff model.hf model.bitnet --json",
)

DETAILS = """\
Exits with 0 when both are the same model, and with 1 when they differ: in spec, any trit, scale
or float, tokenizer, chat template, generation settings or metadata. How the same thing is stored
(format, encoding, type) is told and is no difference. `bitnet model compare` tells what a
difference costs."""


@dataclass
class DiffArgs(PairArgs):
    """Options of `bitnet model diff`."""

    force: bool = record_force_option()


def run(args: DiffArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.diff(args.model1, args.model2, offline=args.offline or None, progress=ctx.progress)
    result = CommandResult.of(record, rows="differences", page=page)
    result.subject = f"{args.model1} and {args.model2}"
    data = result.data
    result.sections = [summary(data), *differences(data)]
    if data["equal"]:
        result.sections = [Text("the same model"), *result.sections[1:]]
        return result
    return result.fail(
        CheckFailed(
            "model.differ",
            f"`{args.model1}` and `{args.model2}` differ in "
            + ", ".join(f"{count} of {part}" for part, count in data["counts"].items()),
            "`bitnet model compare` tells what that does to accuracy, size and speed",
        )
    )
