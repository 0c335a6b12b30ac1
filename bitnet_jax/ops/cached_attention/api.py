"""The op as the pass `fuse_attention` makes it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.cached_attention import native
from bitnet_jax.ops.cached_attention.reference import cached_attention_reference
from bitnet_jax.ops.define import define_fused

cached_attention_p = define_fused(
    "cached_attention",
    cached_attention_reference,
    native=native.cached_attention_native,
    fits=native.fits,
)


def cached_attention(
    q: Any,
    k: Any,
    v: Any,
    positions: Any,
    keys: Any,
    values: Any,
    *,
    theta: float,
    scaling: tuple[Any, ...] = (),
    window: int = 0,
) -> tuple[Any, Any, Any]:
    """Rotates `q` and `k`, writes `k` and `v` into the caches, and attends.

    It has no derivative and no batching rule: it stands in compiled programs only.

    Args:
      q: float32 [batch, length, heads, head_dim].
      k, v: float32 [batch, length, kv_heads, head_dim].
      positions: int32 [batch, length], ascending by one along a row.
      keys, values: float32 [batch, capacity, kv_heads, head_dim], or int8 with rows as
        `quant.cache_rows` has them.
      theta, scaling: as `rotary` takes them.
      window: as `attention` takes it.

    Returns:
      `q`'s shape, and both caches with the new rows.
    """
    chosen = {"scaling": tuple(scaling), "window": int(window)}
    chosen = {name: value for name, value in chosen.items() if value}
    y, keys, values = cached_attention_p.bind(
        q, k, v, positions, keys, values, theta=float(theta), **chosen
    )
    return y, keys, values
