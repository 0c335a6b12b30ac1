"""Float32 operations that XLA must not rewrite, for numpy and for JAX arrays.

XLA changes float32 arithmetic for speed; each guard here stands against one such
change (docs/decisions/0002 lists what was seen), so that numpy, jit and eager give
the same bits. On numpy arrays a guard is the plain operation. Knows nothing of
weights or activations.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.absmean import namespace

_LARGEST = np.finfo(np.float32).max
# exponent and mantissa bits of the dtypes a value can be rounded to
_BITS = {"float32": (8, 23), "bfloat16": (8, 7), "float16": (5, 10)}
# Below its smallest normal number float16 is a grid of step 2^-24.
_FLOAT16_NORMAL, _FLOAT16_STEP = np.float32(2.0**-14), np.float32(2.0**-24)


def barrier(x: Any) -> Any:
    """`x`, as a value that XLA does not fold, reorder or divide through."""
    if namespace(x) is np:
        return x
    from jax import lax

    return lax.optimization_barrier(x)


def uncontracted(y: Any, finite: Any) -> Any:
    """`y`, as a value that XLA cannot fuse into a multiply-add with what follows.

    A residual connection adds to `y`, and XLA's CPU code then computes `acc * s + x`
    with one rounding instead of two. Of barriers, `reduce_precision`, `max` and
    `clamp` only a clamp to the finite range stops it. Where `finite` (broadcast
    against `y`) is not finite, the result is NaN: the clamp alone would make a
    spoiled value look like a number.
    """
    if namespace(y) is np:
        return np.where(np.isfinite(finite), y, np.float32(np.nan))
    return _clamped()(y, finite)


@functools.cache
def _clamped() -> Any:
    """The clamp, with the identity as its derivative: nothing need be kept for one.

    The clamp's own would keep `y`, and with it a product that a remat policy throws away.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    @jax.custom_jvp
    def clamped(y: Any, finite: Any) -> Any:
        inside = lax.clamp(-_LARGEST, y, _LARGEST)
        return jnp.where(jnp.isfinite(finite), inside, jnp.float32(jnp.nan))

    clamped.defjvp(lambda primals, tangents: (clamped(*primals), tangents[0]))
    return clamped


def round_scale(scale: Any, scale_dtype: str) -> Any:
    """Rounds float32 `scale` to `scale_dtype`'s precision, keeping float32.

    `lax.reduce_precision` rather than two casts: XLA removes a pair of casts. It sends
    float16's subnormal numbers to zero, which casts do not: these are rounded by hand.

    Raises:
      UsageError: the dtype is none of float32, bfloat16, float16 (``quant.scale_dtype``).
    """
    if scale_dtype not in _BITS:
        raise UsageError(
            "quant.scale_dtype",
            f"scale dtype `{scale_dtype}` is unknown",
            "known: " + ", ".join(_BITS),
        )
    if scale_dtype == "float32":
        return scale
    if namespace(scale) is np:
        import ml_dtypes

        dtype = ml_dtypes.bfloat16 if scale_dtype == "bfloat16" else np.float16
        return np.asarray(scale, np.float32).astype(dtype).astype(np.float32)
    import jax.numpy as jnp
    from jax import lax

    rounded = lax.reduce_precision(scale, *_BITS[scale_dtype])
    if scale_dtype == "bfloat16":
        return rounded
    # Products with powers of two are exact, so this rounds once, half to even.
    small = jnp.rint(scale / _FLOAT16_STEP) * _FLOAT16_STEP
    return jnp.where(jnp.abs(scale) < _FLOAT16_NORMAL, small, rounded)
