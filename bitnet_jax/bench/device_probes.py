"""`probes` for a device that is no CPU: its own memory and arithmetic, through XLA.

A sum over a large buffer, and a large int8 product: what a compiler reaches, which is near the
limit on such devices, and not the limit itself. Knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bitnet_jax.bench.probes import BUFFER, Bandwidth, Peak

_TRIES = 3
_SIDE = 8192
FORM = "xla"


def bandwidth(bytes: int | None = None) -> Bandwidth:
    """How fast the default device reads its memory."""
    size = bytes or BUFFER
    held = jnp.ones(size // 4, jnp.uint32)
    read = jax.jit(jnp.sum)
    again = _rate(lambda: read(held), held.nbytes / 1e9)
    tried = [{"threads": 0, "pages": "device", "gb_s": max(again() for _ in range(_TRIES))}]
    found = Bandwidth(0, "device", FORM, held.nbytes, [], tried, again)
    for _ in range(_TRIES):
        found.again()
    return found


def int8_peak(side: int = _SIDE) -> Peak:
    """How many int8 operations a second one large product reaches."""
    ones = jnp.ones((side, side), jnp.int8)

    @jax.jit
    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)

    found = Peak(FORM, 0, [], None, _rate(lambda: multiply(ones, ones), 2 * side**3 / 1e12))
    for _ in range(_TRIES):
        found.again()
    return found


def _rate(run: Callable[[], jax.Array], work: float) -> Callable[[], float]:
    """What does `work` at each run, as a function that gives work a second; compiles first."""
    run().block_until_ready()

    def again() -> float:
        begun = time.perf_counter()
        run().block_until_ready()
        return work / (time.perf_counter() - begun)

    return again
