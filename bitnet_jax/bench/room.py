"""Whether a benchmark fits into memory, reckoned before anything of it is allotted.

Before loading it is a lower bound from shapes alone; once a program is compiled, XLA's own
figures. Knows nothing of how things are timed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from bitnet_jax.compiler.compile import Executable
from bitnet_jax.core.errors import Unavailable
from bitnet_jax.core.pages import memory_available
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import family_for

_GIB = 1 << 30


def needed(checkpoint: Checkpoint, batch: int, tokens: int, kv: str = "float32") -> dict[str, int]:
    """Bytes that `batch` sequences of `tokens` take at least: weights, cache, activations."""
    spec = checkpoint.spec
    weights = 0
    for entry in checkpoint.entries.values():
        size = int(np.prod(entry.shape, dtype=object))
        weights += size // 4 if entry.ternary else size * 4
    family = family_for(spec)
    make = family.cache if kv == "float32" else partial(KVCache.empty, kind=kv)
    cache = jax.eval_shape(lambda: make(spec, batch, tokens))
    leaves: Iterable[Any] = jax.tree_util.tree_leaves(cache)
    rows = sum(int(np.prod(x.shape, dtype=object)) * x.dtype.itemsize for x in leaves)
    row = 4 * (2 * spec.hidden_size + spec.intermediate_size)
    return {
        "weights": weights,
        "cache": rows,
        "activations": batch * (tokens * row + spec.vocab_size * 4),
    }


def check(
    checkpoint: Checkpoint, batch: int, tokens: int, kv: str = "float32", besides: int = 0
) -> dict[str, int]:
    """Returns what `needed` says, if there is so much.

    Raises:
      Unavailable: there is not (``bench.memory``).
    """
    parts = needed(checkpoint, batch, tokens, kv)
    total, there = sum(parts.values()) + besides, memory_available()
    if total > there:
        said = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
        raise Unavailable(
            "bench.memory",
            f"batch {batch} of {tokens} tokens takes at least {_gib(total)} ({said}); "
            f"{_gib(there)} are free",
            "take a smaller batch, or fewer tokens",
        )
    return parts


def check_compiled(executable: Executable, what: str) -> None:
    """Raises `Unavailable` when a compiled program would need more than there is."""
    receipt = executable.receipt
    there = memory_available()
    if receipt.temp_bytes > there:
        raise Unavailable(
            "bench.memory",
            f"{what} takes {_gib(receipt.temp_bytes)} beside weights and cache; "
            f"{_gib(there)} are free",
            "take a smaller batch, or fewer tokens",
        )


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / (1 << 20):.1f} MiB"
