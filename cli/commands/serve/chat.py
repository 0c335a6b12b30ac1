"""`bitnet serve chat`: talk with a model."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from bitnet_jax.core.errors import BitnetError

from ...context import Context
from ...fields import option
from ...options import SamplingArgs, model_option
from ...result import CommandResult

EXAMPLES = (
    "bitnet chat model.bitnet",
    'bitnet serve chat -m model.bitnet --prompt "Who are you?" --system "Answer in one line."',
)

DETAILS = """\
On a terminal: /reset forgets the talk so far, /exit (or Ctrl-D) ends it. From a pipe, each
line is a turn. With --prompt there is that one turn. Where a turn fails (the context is full),
the talk ends there, and the record has what was said until then."""

RESET, EXIT = "/reset", "/exit"


@dataclass
class ChatArgs(SamplingArgs):
    """Options of `bitnet serve chat`."""

    model: str = model_option()
    prompt: Optional[str] = option(
        "-p", "--prompt", metavar="TEXT", positional=True, help="say this and end after the reply"
    )
    system: Optional[str] = option(
        metavar="TEXT", help="what the model is told before the talk begins"
    )


def run(args: ChatArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    model = api.load(
        args.model,
        **args.held(),
        keep_compiled=True,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    opening = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(opening)
    records: list[dict] = []
    turns = 0
    failed: Optional[BitnetError] = None
    while failed is None:
        try:
            text = _turn(args, ctx, first=turns == 0)
            if text is None:
                break
            turns += 1
            if text == RESET:
                messages = list(opening)
                ctx.say("forgotten")
                continue
            turn = [*messages, {"role": "user", "content": text}]
            record = CommandResult.of(
                model.chat(
                    turn,
                    **args.sampling(),
                    stream=ctx.streams_text,
                )
            ).data
        except BitnetError as error:
            if not records:
                raise
            failed = error  # as a full context: the talk ends, and what was said is kept
        else:
            ctx.end_text()
            messages = [*turn, {"role": "assistant", "content": record["text"]}]
            records.append(record)
    result = CommandResult(data={"messages": messages, "replies": records}, sections=[])
    return result if failed is None else result.fail(failed)


def _turn(args: ChatArgs, ctx: Context, *, first: bool) -> str | None:
    """Returns what the person says next, or None when the talk is over."""
    if args.prompt is not None:
        return args.prompt if first else None
    while True:
        line = ctx.ask("you> ")
        if line is None or line.strip() == EXIT:
            return None
        if line.strip():
            return line.strip()
