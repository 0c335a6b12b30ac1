"""`bitnet model publish`: a model into a repository of the hub, after what differs was shown."""

# ruff: noqa: UP045
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from bitnet_jax.core.errors import UsageError

from ...context import Context
from ...fields import option
from ...options import ModelArgs, model_option, record_force_option, yes_option
from ...result import CommandResult, Pairs, show, table_of

EXAMPLES = (
    "bitnet model publish model.hf hf://me/my-model --yes",
    'bitnet model publish model.hf hf://me/my-model --message "first" --private --yes',
)

DETAILS = """\
Shows what would be added, changed and removed there, and asks, unless --yes is given. Then it is
one commit: cut anywhere, the repository is as it was. Weights of another model that are there go;
every other file stays. Without a README.md, or with one of ours, a model card is written. The
token is that of HF_TOKEN or of `hf auth login`."""


@dataclass
class PublishArgs(ModelArgs):
    """Options of `bitnet model publish`."""

    model: str = model_option("-i", "--input")
    repo: str = option(
        metavar="hf://ORG/NAME", positional=True, needed=True, help="where it is published"
    )
    message: Optional[str] = option(metavar="TEXT", help="what the change is about")
    private: bool = option(default=False, help="only its owner may see it, where it is new")
    yes: bool = yes_option("publish without asking")
    force: bool = record_force_option()


def run(args: PublishArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    def confirm(record: Mapping[str, Any]) -> bool:
        _show(record, ctx)
        if args.yes:
            return True
        if not ctx.interactive:
            raise UsageError(
                "publish.not_confirmed",
                f"nobody can be asked whether to publish to `{args.repo}`",
                "pass --yes",
            )
        answer = ctx.ask(f"publish to {args.repo}? [y/N] ")
        return (answer or "").strip().lower() in ("y", "yes")

    record = api.publish(
        args.model,
        args.repo,
        message=args.message,
        private=args.private,
        confirm=confirm,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    result = CommandResult.of(record, rows="changes", subject=args.repo)
    data = result.data
    if data["published"]:
        outcome = "published"
    elif all(row["what"] == "same" for row in data["changes"]):
        outcome = "nothing to do: it is all there"
    else:
        outcome = "not published"
    names = ("repo", "commit", "left_out")
    result.sections = [
        table_of(data["changes"], ("file", "what", "before", "after")),
        Pairs([("outcome", outcome), *((name, data[name]) for name in names if data[name])]),
    ]
    return result


def _show(record: Mapping[str, Any], ctx: Context) -> None:
    """Says what would become of each file that is not the same already."""
    if not record["exists"]:
        kind = "private" if record["private"] else "public"
        ctx.say(f"{record['repo']} is new, and will be {kind}")
    for row in record["changes"]:
        if row["what"] != "same":
            sizes = " -> ".join(show(row[name]) for name in ("before", "after"))
            ctx.say(f"  {row['what']:8} {row['file']}  ({sizes} bytes)")
    if record["left_out"]:
        ctx.say("  left out: " + ", ".join(record["left_out"]))
