"""`bitnet model list-architectures`: the families and shapes that are known."""

from dataclasses import dataclass

from ...context import Context
from ...options import PluginArgs, record_force_option
from ...result import CommandResult

EXAMPLES = (
    "bitnet model list-architectures",
    "bitnet model list-architectures --json",
)


@dataclass
class ListArchitecturesArgs(PluginArgs):
    """Options of `bitnet model list-architectures`."""

    force: bool = record_force_option()


def run(args: ListArchitecturesArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    return CommandResult.of(api.list_architectures(), rows="shapes")
