"""What `rotary` means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np


def _linear(inverse: np.ndarray, factor: float) -> np.ndarray:
    """All positions are divided by `factor` (kaiokendev 2023)."""
    return inverse / np.float32(factor)


def _llama3(
    inverse: np.ndarray, factor: float, low: float, high: float, positions: float
) -> np.ndarray:
    """Long waves are divided by `factor`, short ones kept, those between blended (Llama 3.1).

    Long is above ``positions / low``, short below ``positions / high``; `positions` are those
    that the model was first trained for. As `_compute_llama3_parameters` of transformers.
    """
    wave = np.float32(2 * math.pi) / inverse
    long = np.where(wave > np.float32(positions / low), inverse / np.float32(factor), inverse)
    share = (np.float32(positions) / wave - np.float32(low)) / np.float32(high - low)
    blend = (1 - share) * long / np.float32(factor) + share * long
    between = (wave >= np.float32(positions / high)) & (wave <= np.float32(positions / low))
    return np.where(between, blend, long).astype(np.float32)


# Ways to scale the frequencies: name -> what is done to them, float32, with the way's numbers.
SCALINGS: dict[str, Callable[..., np.ndarray]] = {"linear": _linear, "llama3": _llama3}


def frequencies(head_dim: int, theta: float, scaling: tuple[Any, ...] = ()) -> np.ndarray:
    """``theta^(-2i/head_dim)`` for i < head_dim/2, float32 (Su et al. 2021).

    Args:
      scaling: a key of `SCALINGS` and its numbers, or empty.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = (1.0 / np.float32(theta) ** exponent).astype(np.float32)
    return SCALINGS[scaling[0]](inverse, *scaling[1:]) if scaling else inverse


def rotary_reference(x: Any, positions: Any, *, theta: float, scaling: tuple[Any, ...] = ()) -> Any:
    """Rotates the two halves of each head (the NeoX layout, as `rotate_half` in transformers)."""
    angles = positions.astype(jnp.float32)[..., None] * frequencies(x.shape[-1], theta, scaling)
    cos = jnp.cos(angles)[..., None, :].astype(x.dtype)
    sin = jnp.sin(angles)[..., None, :].astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
