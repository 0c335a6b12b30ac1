"""What address space this process may still take, where its system limits it.

XLA's compiler and threads end the whole process when they get no memory: no exception, no
message of ours. So what is likely to end so is refused before it begins. POSIX-only: where
there is no such limit, there is nothing to look at. Knows nothing of models.
"""

from __future__ import annotations

import sys

from bitnet_jax.core.errors import Unavailable

# Measured: with this much left a small model compiles and runs (threads' stacks, the
# compiler, its arenas); with a fifth less, it crashes.
COMPILING = 5 << 28


def address_space_left() -> int | None:
    """Bytes up to the limit (``ulimit -v``); None where there is none, or it cannot be told."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY or not sys.platform.startswith("linux"):
            return None
        with open("/proc/self/statm", encoding="ascii") as stream:
            return limit - int(stream.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return None


def check_room_to_compile() -> None:
    """Raises where XLA would not get the address space it needs.

    Raises:
      Unavailable: code ``memory.exhausted``.
    """
    left = address_space_left()
    if left is not None and left < COMPILING:
        raise Unavailable(
            "memory.exhausted",
            f"not enough memory: the limit of this process leaves {max(left, 0) >> 20} MiB, "
            f"compiling a model takes {COMPILING >> 20} MiB",
            "raise the limit (`ulimit -v`)",
        )
