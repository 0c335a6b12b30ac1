"""`bitnet dev build`: the CPU kernels, ahead of time."""

from dataclasses import dataclass

from ...context import Context
from ...options import force_option, output_option
from ...result import CommandResult

EXAMPLES = (
    "bitnet dev build --output kernels",
    "bitnet dev build -o kernels --force --json",
)

DETAILS = """\
Point BITNET_KERNELS at the folder to use them, read-only, on a machine without a compiler.
Nothing needs this where there is one: they are built at first use, into this user's cache."""


@dataclass
class BuildArgs:
    """Options of `bitnet dev build`."""

    output: str = output_option(help="the folder to write", needed=True)
    force: bool = force_option("build again, and replace what is there")


def run(args: BuildArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    return CommandResult.of(api.build_kernels(output=args.output, force=args.force))
