"""What `cached_attention` means: the ops that it stands for, one after the other."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.attention.reference import attention_reference
from bitnet_jax.ops.cache_write.reference import cache_write_reference
from bitnet_jax.ops.rotary.reference import rotary_reference


def cached_attention_reference(
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
    """The result [batch, length, heads, head_dim], and both caches with the new rows."""
    turn: dict[str, Any] = {"theta": theta, "scaling": scaling}
    keys = cache_write_reference(keys, rotary_reference(k, positions, **turn), positions)
    values = cache_write_reference(values, v, positions)
    q = rotary_reference(q, positions, **turn)
    return attention_reference(q, keys, values, positions, window=window), keys, values
