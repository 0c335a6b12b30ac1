"""`bitnet model edit`: a model's metadata, templates and end ids; its weights stay as they are."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from bitnet_jax.core.errors import UsageError

from ...context import Context
from ...fields import key_value, named, option
from ...options import ModelArgs, force_option, model_option, output_option
from ...result import CommandResult, Pairs, table_of

EXAMPLES = (
    "bitnet model edit model.bitnet -o named.bitnet --set general.name=Tiny",
    "bitnet model edit model.bitnet -o chat.bitnet --chat-template chat.jinja",
    "bitnet model edit model.hf -o fixed.hf --set eos_token_ids=128001,128009",
)

DETAILS = """\
Keys:
  general.NAME             what the model says of itself: name, author, description, license, ...
  eos_token_ids            ids that end a text, 1,2; bos_token_id and pad_token_id are one each
  generation.NAME          what generation_config.json suggests: temperature, top_p, ...
  tokenizer.chat_template  only --unset; --chat-template puts a file in
  tokenizer.eos_token      also bos_token, pad_token, unk_token: a token of the vocabulary
What says what the model computes (sizes, eps, theta) is refused. .bitnet files and folders of
transformers; the digests are compared with those of what was written."""


@dataclass
class EditArgs(ModelArgs):
    """Options of `bitnet model edit`."""

    model: str = model_option("-i", "--input")
    output: str = output_option(help="the file or folder to write", needed=True)
    set: list[str] = option(
        default_factory=list,
        type=key_value,
        repeat=True,
        metavar="KEY=VALUE",
        help="set an entry; may be repeated",
    )
    unset: list[str] = option(
        "-u",
        "--unset",
        default_factory=list,
        type=str,
        repeat=True,
        metavar="KEY",
        help="remove an entry; may be repeated",
    )
    chat_template: Optional[str] = option(
        type=named, metavar="FILE", help="the chat template to put in"
    )
    force: bool = force_option()


def run(args: EditArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    entries: dict[str, str] = {}
    for text in args.set:
        key, _, value = text.partition("=")
        if key in entries:
            raise UsageError("edit.key", f"`{key}` is set twice", "give it once")
        entries[key] = value
    record = api.edit(
        args.model,
        args.output,
        entries=entries,
        remove=tuple(args.unset),
        chat_template=args.chat_template,
        force=args.force,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="changes", subject=args.output)
    data = result.data
    result.sections = [
        table_of(data["changes"], ("key", "before", "after")),
        Pairs([("outputs", data["outputs"]), ("digest trits", data["digest_after"]["trits"])]),
    ]
    return result
