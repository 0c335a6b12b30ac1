"""The KV cache: one pair of buffers a layer, written in place by the op `cache_write`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.quant.cache_rows import CACHES, row_width


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer.

    Invariant: entry ``[b, p]`` is that of row b's token at position p, for every p
    the row has reached; what stands beyond is never attended to.

    Attributes:
      keys, values: tuples over layers of [batch, capacity, kv_heads, head_dim], float32; or
        int8 with rows as `quant.cache_rows` has them.
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]

    @classmethod
    def empty(cls, spec: ModelSpec, batch: int, capacity: int, kind: str = "float32") -> KVCache:
        """A cache of zeros for `capacity` tokens a row, a key of `quant.cache_rows.CACHES`."""
        width, dtype = row_width(spec.head_dim, kind), CACHES[kind]
        shape = (batch, capacity, spec.num_kv_heads, width)
        layers = range(spec.num_layers)
        return cls(
            tuple(jnp.zeros(shape, dtype) for _ in layers),
            tuple(jnp.zeros(shape, dtype) for _ in layers),
        )

    @property
    def capacity(self) -> int:
        """Tokens a row can hold."""
        return self.keys[0].shape[1]
