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

    Returns:
      `q`'s shape, and both caches with the new rows.
    """
    turn = {"theta": float(theta)} | ({"scaling": tuple(scaling)} if scaling else {})
    y, keys, values = cached_attention_p.bind(q, k, v, positions, keys, values, **turn)
    return y, keys, values
