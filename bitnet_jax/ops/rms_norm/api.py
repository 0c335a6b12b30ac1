"""The op as the models call it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.define import define
from bitnet_jax.ops.rms_norm import native
from bitnet_jax.ops.rms_norm.reference import rms_norm_reference

rms_norm_p = define("rms_norm", rms_norm_reference, native=native.rms_norm_native, fits=native.fits)


def rms_norm(x: Any, weight: Any, *, eps: float, implementation: str = "reference") -> Any:
    """Normalizes `x` [..., n] over its last axis and multiplies by `weight` [n].

    Args:
      implementation: ``reference``, which XLA can shard and export; ``native``, or ``auto``
        where the kernel fits: with sums in one order (`native.py`).

    Returns:
      `x`'s shape and dtype.
    """
    chosen = {} if implementation == "reference" else {"implementation": implementation}
    return rms_norm_p.bind(x, weight, eps=float(eps), **chosen)
