"""`bitnet model list-architectures`: the families and shapes that are known."""

from dataclasses import dataclass

from ...context import Context
from ...options import PluginArgs
from ...result import CommandResult

EXAMPLES = (
    "bitnet model list-architectures",
    "bitnet model list-architectures --json",
)


@dataclass
class ListArchitecturesArgs(PluginArgs):
    """Options of `bitnet model list-architectures`."""


def run(args: ListArchitecturesArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    return CommandResult.of(api.list_architectures(), rows="shapes")
