"""The op as the models call it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.attention import native
from bitnet_jax.ops.attention.reference import attention_reference
from bitnet_jax.ops.define import define

attention_p = define(
    "attention", attention_reference, native=native.attention_native, fits=native.fits
)


def attention(
    q: Any,
    k: Any,
    v: Any,
    positions: Any,
    *,
    window: int = 0,
    implementation: str = "reference",
) -> Any:
    """Causal attention of queries over keys that stand at their own index.

    Args:
      q: [batch, length, heads, head_dim].
      k, v: [batch, keys, kv_heads, head_dim]; `heads` a multiple of `kv_heads`
        (grouped-query attention, Ainslie et al. 2023). Of a float dtype, or int8 with rows as
        `quant.cache_rows` has them.
      positions: int32 [batch, length], each query's own position among the keys, not negative.
      window: how many keys a query sees at most, its own included (sliding-window attention,
        Beltagy et al. 2020); 0: all before it.
      implementation: ``reference``, which XLA can shard and export; ``native``, or ``auto``
        where the kernel fits: with sums in one order (`native.py`).

    Returns:
      `q`'s shape and dtype.
    """
    chosen: dict[str, Any] = {"window": int(window)} if window else {}
    if implementation != "reference":
        chosen["implementation"] = implementation
    return attention_p.bind(q, k, v, positions, **chosen)
