"""Rows of a KV cache in int8: the codes of one token's head, then their scale.

A row of `width` floats is int8 [width + 4]: codes and token scale as of activations
(`activations.py`), the float32 scale's four bytes, lowest first, after them. One row is one
piece of memory: whoever reads a key reads its scale with it. Of a row that is not finite all
values are NaN. Knows nothing of attention.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.quant.activations import quantize

SCALE_BYTES = 4
# What a cache may hold its rows in, and the dtype by which an op knows it.
CACHES = {"float32": jnp.float32, "int8": jnp.int8}


def check_cache(kind: str) -> None:
    """Raises `UsageError` (``model.kv_kind``) unless a cache can hold its rows so."""
    if kind not in CACHES:
        raise UsageError(
            "model.kv_kind",
            f"the KV cache cannot be held as {kind!r}",
            did_you_mean(kind, CACHES),
        )


def row_width(width: int, kind: str) -> int:
    """Elements of a row of `width` floats in a cache of `kind`."""
    return width + (SCALE_BYTES if kind == "int8" else 0)


def stored(rows: Any, dtype: Any) -> Any:
    """Float rows [..., width] as a cache of `dtype` holds them: a float dtype, or int8."""
    if dtype != jnp.int8:
        return rows.astype(dtype)
    q, _, scale = quantize(rows)
    return jnp.concatenate([q, lax.bitcast_convert_type(scale[..., 0], jnp.int8)], axis=-1)


def as_floats(rows: Any) -> Any:
    """What a cache holds as float32: the inverse of `stored`, but for its rounding."""
    if rows.dtype != jnp.int8:
        return rows.astype(jnp.float32)
    scale = lax.bitcast_convert_type(rows[..., -SCALE_BYTES:], jnp.float32)
    return rows[..., :-SCALE_BYTES].astype(jnp.float32) * scale[..., None]
