"""`bitnet model create`: a random model that is spelled like the real one."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...context import Context
from ...fields import option, whole
from ...options import (
    ModelArgs,
    force_option,
    format_option,
    output_option,
    seed_option,
)
from ...result import CommandResult

EXAMPLES = (
    "bitnet model create --shape bitnet-2b-4t --layers 2 --output tiny.hf",
    "bitnet model create --shape bitnet-2b-4t --layers 1 --seed 7 -f bitnet -o tiny.bitnet",
)

DETAILS = """\
The weights are random: for tests of tools and loaders, not for use. `bitnet model
list-architectures` lists the shapes."""


@dataclass
class CreateArgs(ModelArgs):
    """Options of `bitnet model create`."""

    shape: str = option(positional=True, needed=True, help="which model to be shaped like")
    output: str = output_option(help="the file or folder to write", needed=True)
    format: Optional[str] = format_option()
    encoding: Optional[str] = option(
        "-E",
        "--encoding",
        help="the format's variant: packed, master, ...",
        shown_default="as the real one is published",
    )
    layers: Optional[int] = option(
        "-l",
        "--layers",
        type=whole(1),
        metavar="N",
        shown_default="as many as the shape has",
        help="how many layers",
    )
    vocab_size: Optional[int] = option(
        type=whole(1), metavar="N", shown_default="the shape's", help="how many tokens"
    )
    defect: list[str] = option(
        "-D",
        "--defect",
        default_factory=list,
        type=str,
        repeat=True,
        commas=True,
        metavar="KIND",
        help="build a defect in, to try `model validate` on; may be repeated",
    )
    seed: int = seed_option()
    force: bool = force_option()


def run(args: CreateArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    record = api.create(
        shape=args.shape,
        output=args.output,
        format=args.format,
        encoding=args.encoding,
        layers=args.layers,
        vocab_size=args.vocab_size,
        seed=args.seed,
        defects=tuple(args.defect),
        force=args.force,
        offline=args.offline or None,
        progress=ctx.progress,
    )
    return CommandResult.of(record)
