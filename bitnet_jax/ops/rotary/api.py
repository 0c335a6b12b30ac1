"""The op as the models call it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.define import define
from bitnet_jax.ops.rotary.reference import rotary_reference

rotary_p = define("rotary", rotary_reference)


def rotary(x: Any, positions: Any, *, theta: float, scaling: tuple[Any, ...] = ()) -> Any:
    """Rotates `x` [batch, length, heads, head_dim] by int32 `positions` [batch, length].

    Args:
      scaling: how the frequencies are scaled: a key of `reference.SCALINGS` and its numbers
        (``("linear", 2.0)``), or empty.
    """
    chosen = {"scaling": tuple(scaling)} if scaling else {}
    return rotary_p.bind(x, positions, theta=float(theta), **chosen)
