"""`bitnet serve generate`: continue a prompt."""

from dataclasses import dataclass

from ...context import Context
from ...fields import option
from ...options import SamplingArgs, model_option
from ...result import CommandResult

EXAMPLES = (
    'bitnet generate model.bitnet "The capital of France is"',
    'bitnet serve generate -m model.bitnet --prompt "Once" --max-tokens 32 --temperature 0 --json',
)

DETAILS = """\
The text goes to stdout as it is made; how fast it was goes to stderr. `--prompt -` reads the
prompt from stdin."""


@dataclass
class GenerateArgs(SamplingArgs):
    """Options of `bitnet serve generate`."""

    model: str = model_option()
    prompt: str = option(
        "-p",
        "--prompt",
        metavar="TEXT",
        positional=True,
        needed=True,
        help="the text to continue; - reads it from stdin",
    )


def run(args: GenerateArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    prompt = ctx.read_stdin() if args.prompt == "-" else args.prompt
    model = api.load(
        args.model,
        **args.held(),
        keep_compiled=True,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    record = model.generate(
        prompt,
        **args.sampling(),
        stream=ctx.streams_text,
    )
    ctx.end_text()
    result = CommandResult.of(record, sections=[])  # what was streamed is not printed again
    data = result.data
    speed = data["decode_tokens_per_second"]  # None before there was a second token
    said = f"{speed:.4g} tokens/s, " if speed else ""
    ctx.say(f"{len(data['tokens'])} tokens, {said}kernel {data['kernel']}")
    return result
