"""The op as the models call it."""

from __future__ import annotations

from typing import Any

from bitnet_jax.ops.cache_write.reference import cache_write_reference
from bitnet_jax.ops.define import define

cache_write_p = define("cache_write", cache_write_reference)


def cache_write(buffer: Any, new: Any, positions: Any) -> Any:
    """`buffer` with each row's `new` at the row's positions.

    Args:
      buffer: [batch, capacity, ...], of a float dtype or, with rows as `quant.cache_rows` has
        them, int8.
      new: [batch, length, ...], any float dtype.
      positions: int32 [batch, length], ascending by one along a row. A run that would not
        fit is moved down until it does.

    Returns:
      `buffer`'s shape and dtype.
    """
    return cache_write_p.bind(buffer, new, positions)
