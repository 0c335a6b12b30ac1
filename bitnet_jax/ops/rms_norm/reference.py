"""What `rms_norm` means."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax


def rms_norm_reference(x: Any, weight: Any, *, eps: float) -> Any:
    """``weight * (x * rsqrt(mean(x²) + eps))``, the inner part in float32.

    Source: Zhang & Sennrich 2019; the cast back to `x`'s dtype before the product is
    that of `BitNetRMSNorm` in transformers.
    """
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide * wide, axis=-1, keepdims=True)
    normed = (wide * lax.rsqrt(mean + jnp.float32(eps))).astype(x.dtype)
    return weight.astype(x.dtype) * normed
