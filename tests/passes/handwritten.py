"""The quantized linear written by hand, from the contract alone: what the transform must equal.

Independent of the package on purpose: plain `jax.numpy`, no shared helper but the
scale's reduction tree, whose bits are part of the contract.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bitnet_jax.quant.absmean import absmean


@jax.custom_jvp
def ste(u, rounded):
    return rounded


@ste.defjvp
def _ste_jvp(primals, tangents):
    return primals[1], tangents[0]


def linear(x, w, lam=1.0, scale="tensor"):
    """x [..., in] by w [out, in], as the quantized model computes it."""
    out_dtype = x.dtype
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    flat = lax.stop_gradient(w).reshape(-1) if scale == "tensor" else lax.stop_gradient(w)
    s = lax.reduce_precision(jnp.maximum(absmean(flat), 1e-5), 8, 7)
    inverse = 1 / (s if scale == "tensor" else s[:, None])
    ratio = w * inverse
    trits = jnp.clip(jnp.rint(ratio), -1, 1)
    a = jnp.maximum(jnp.max(jnp.abs(lax.stop_gradient(x)), axis=-1, keepdims=True), 1e-5)
    scaled = x * (127 / a)
    codes = jnp.clip(jnp.rint(scaled), -128, 127)
    p = ste(ratio, trits) if lam == 1 else lam * ste(ratio, trits) + (1 - lam) * ratio
    v = ste(scaled, codes) if lam == 1 else lam * ste(scaled, codes) + (1 - lam) * scaled
    y = jnp.einsum("...i,oi->...o", v, p)
    # the contract's order of operations; unguarded, XLA folds 1/127 into s under jit
    token_scale = lax.optimization_barrier(a * jnp.float32(1 / 127))
    return (y * (s * token_scale)).astype(out_dtype)
