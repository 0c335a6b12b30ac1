"""What `cache_write` means."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from bitnet_jax.quant.cache_rows import stored


def cache_write_reference(buffer: Any, new: Any, positions: Any) -> Any:
    """Each row's `new` in one piece from the row's first position on."""

    def row(buffer: Any, new: Any, start: Any) -> Any:
        return lax.dynamic_update_slice_in_dim(buffer, new, start, 0)

    return jax.vmap(row)(buffer, stored(new, buffer.dtype), positions[:, 0])
