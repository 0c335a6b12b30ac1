"""`bitnet dev build`: the CPU kernels, ahead of time."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...context import Context
from ...options import force_option, output_option
from ...result import CommandResult

EXAMPLES = (
    "bitnet dev build --output kernels",
    "bitnet dev build -o kernels --force --json",
)

DETAILS = """\
Without --output they go to this user's cache, where they would be built at first use. Point
BITNET_KERNELS at the folder to use it, read-only, on a machine without a compiler."""


@dataclass
class BuildArgs:
    """Options of `bitnet dev build`."""

    output: Optional[str] = output_option(
        help="the folder to write", shown_default="this user's cache"
    )
    force: bool = force_option("build again, and replace what is there")


def run(args: BuildArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    return CommandResult.of(api.build_kernels(output=args.output, force=args.force))
