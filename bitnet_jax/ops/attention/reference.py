"""What `attention` means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitnet_jax.quant.cache_rows import as_floats

# Profile `exact`: on GPU and TPU the default would be TF32 or bfloat16.
EXACT = lax.Precision.HIGHEST


def attention_reference(q: Any, k: Any, v: Any, positions: Any, *, window: int = 0) -> Any:
    """Softmax attention in float32; key `j` is seen by a query at position p if j <= p.

    With a window, and j > p - window too.
    """
    batch, length, heads, head_dim = q.shape
    groups = heads // k.shape[2]
    wide = q.astype(jnp.float32).reshape(batch, length, k.shape[2], groups, head_dim)
    scores = jnp.einsum("blkgd,bskd->bkgls", wide, as_floats(k), precision=EXACT)
    scores = scores * np.float32(head_dim**-0.5)
    keys = jnp.arange(k.shape[1])[None, None, :]
    seen = keys <= positions[:, :, None]
    if window:
        seen &= keys > positions[:, :, None] - window
    scores = jnp.where(seen[:, None, None], scores, np.finfo(np.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("bkgls,bskd->blkgd", weights, as_floats(v), precision=EXACT)
    return out.reshape(q.shape).astype(q.dtype)
