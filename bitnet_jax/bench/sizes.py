"""How many tokens and sequences are measured: what was asked for, checked against the model.

Knows nothing of how they are run.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitnet_jax.bench.steps import CONTEXT
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.spec import ModelSpec

PROMPT, DECODE = 512, 64


def check_sizes(batches: Sequence[int], *tokens: int | None) -> list[int]:
    """Returns the batches, each once and in order.

    Raises:
      UsageError: one is below 1, or there is none (``bench.size``).
    """
    for size in (*batches, *(n for n in tokens if n is not None)):
        if not isinstance(size, int) or size < 1:
            raise UsageError("bench.size", f"{size} is no size", "sizes are whole numbers from 1")
    if not batches:
        raise UsageError("bench.size", "there is no batch size", "name one: --batch-sizes 1")
    return sorted(set(batches))


def fit(
    spec: ModelSpec, prompt: int | None, decode: int | None, warnings: list[str]
) -> tuple[int, int]:
    """Tokens of a prefill and of a decode that the context holds.

    Raises:
      UsageError: more were asked for (``bench.context``).
    """
    found = []
    for asked, usual, room_left, what in (
        (prompt, PROMPT, spec.max_positions, "prefill"),
        (decode, DECODE, spec.max_positions - CONTEXT, "decode"),
    ):
        if asked is not None and asked > room_left:
            raise UsageError(
                "bench.context",
                f"{what} of {asked} tokens: the model's context is {spec.max_positions}"
                + (f", {CONTEXT} of them before a decode" if what == "decode" else ""),
                f"ask for at most {room_left}",
            )
        size = asked or min(usual, room_left)
        if size < 1:
            raise UsageError("bench.context", f"a context of {spec.max_positions} has no room")
        if asked is None and size < usual:
            warnings.append(f"{what} of {size} tokens, not {usual}: the context ends there")
        found.append(size)
    return found[0], found[1]
