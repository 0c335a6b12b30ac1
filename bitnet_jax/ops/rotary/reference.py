"""What `rotary` means."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """``theta^(-2i/head_dim)`` for i < head_dim/2, float32 (Su et al. 2021)."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return (1.0 / np.float32(theta) ** exponent).astype(np.float32)


def rotary_reference(x: Any, positions: Any, *, theta: float) -> Any:
    """Rotates the two halves of each head (the NeoX layout, as `rotate_half` in transformers)."""
    angles = positions.astype(jnp.float32)[..., None] * frequencies(x.shape[-1], theta)
    cos = jnp.cos(angles)[..., None, :].astype(x.dtype)
    sin = jnp.sin(angles)[..., None, :].astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
