"""`bitnet model list-architectures`: the families and shapes that are known."""

from dataclasses import dataclass

from ...context import Context
from ...result import CommandResult

EXAMPLES = (
    "bitnet model list-architectures",
    "bitnet model list-architectures --json",
)


@dataclass
class ListArchitecturesArgs:
    """`bitnet model list-architectures` takes only the options of every command."""


def run(args: ListArchitecturesArgs, ctx: Context) -> CommandResult:
    from bitnet_jax import api

    return CommandResult.of(api.list_architectures())
