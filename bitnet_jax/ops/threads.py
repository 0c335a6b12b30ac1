"""How many threads a call of the CPU kernels takes.

Results do not depend on it. Where the kernels cannot run there is nothing to set: XLA has
threads of its own.
"""

from __future__ import annotations

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.native import library as native

MOST = 256


def set_threads(count: int) -> None:
    """Threads of each kernel call of this process from now on, the caller's included.

    Raises:
      UsageError: as `check_threads`.
    """
    check_threads(count)
    if native.status().available:
        native.set_threads(count)


def check_threads(count: int) -> None:
    """Raises `UsageError` (``engine.threads``) unless `count` is a number from 1 to `MOST`."""
    if not isinstance(count, int) or not 1 <= count <= MOST:
        raise UsageError(
            "engine.threads", f"a kernel cannot run on {count!r} threads", f"give 1 to {MOST}"
        )
