"""`bitnet dev check`: what this machine has, and what it lacks."""

from dataclasses import dataclass

from ...context import Context
from ...fields import option
from ...options import record_force_option
from ...result import CommandResult

EXAMPLES = (
    "bitnet dev check --environment",
    "bitnet dev info --json",
)

DETAILS = "The page is made to be pasted into a report."


@dataclass
class CheckArgs:
    """Options of `bitnet dev check`."""

    environment: bool = option(
        default=False, help="this machine and this installation (what is checked without it, too)"
    )
    force: bool = record_force_option()


def run(args: CheckArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    return CommandResult.of(api.environment())
