"""The quantized linear written by hand, from the contract alone: what the transform must equal.

Independent of the package on purpose: plain `jax.numpy`, no shared helper but the
scale's reduction tree, whose bits are part of the contract.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitnet_jax.quant.absmean import absmean

SCALE_BITS = {"bfloat16": (8, 7), "float16": (5, 10), "float32": (8, 23)}


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


def qeinsum(
    spec,
    x,
    w,
    *,
    view=None,
    inner=None,
    stack=(),
    scale="tensor",
    scale_dtype="bfloat16",
    lam=1.0,
    dtype=None,
    peak=None,
):
    """``jnp.einsum(spec, x, view(w))`` as the quantized model computes it.

    Args:
      w: the whole parameter: its scale is taken from all of it.
      view: what the product sees of it (a slice, a transpose, an element of a stack).
      inner: axes of the whole that are contracted; without a view `spec` says them.
      stack: axes of the whole that hold separate matrices; without a view the batched
        axes of `spec` are added to them.
      scale: `tensor`, `row` or `group-N`.
      dtype: of the result, if not the promoted one.
      peak: the activations' absmax, in x's shape with contracted axes of size 1, where x
        is one shard of the activations.
    """
    operands, out = spec.split("->")
    of_x, of_w = operands.split(",")
    contracted = [label for label in of_w if label in of_x and label not in out]
    if view is None:
        inner = tuple(axis for axis, label in enumerate(of_w) if label in contracted)
        batched = tuple(axis for axis, label in enumerate(of_w) if label in of_x and label in out)
        stack = tuple(sorted({*stack, *batched}))
    dtype = jnp.result_type(x.dtype, w.dtype) if dtype is None else dtype

    wide = w.astype(jnp.float32)
    s, group = scale_of(lax.stop_gradient(wide), stack, inner, scale, scale_dtype)
    inverse = lax.optimization_barrier(1 / s)
    p = blend(wide * inverse, -1, 1, lam)
    p, s, group = (part if view is None else view(part) for part in (p, s, group))

    x = x.astype(jnp.float32)
    if peak is None:
        peak = absmax(x, [of_x.index(label) for label in contracted])
    v = blend(x * (127 / peak), -128, 127, lam)

    def factor(array, labels):
        """`array` less the contracted axes, broadcastable to the result."""
        at = tuple(0 if label in contracted else slice(None) for label in labels)
        kept = [label for label in labels if label not in contracted]
        array = jnp.transpose(array[at], [kept.index(label) for label in out if label in kept])
        return jnp.expand_dims(array, [i for i, label in enumerate(out) if label not in kept])

    # barriers and a clamp: against XLA's folding of 1/127 and its multiply-adds (0002)
    token = lax.optimization_barrier(factor(peak, of_x) * jnp.float32(1 / 127))
    if scale.startswith("group"):
        total = jnp.float32(0)
        axes = tuple(of_w.index(label) for label in contracted)
        for k in range(math.prod(w.shape[axis] for axis in inner) // int(scale[6:])):
            acc = jnp.einsum(spec, v, jnp.where(group == k, p, 0))
            own = jnp.max(jnp.where(group == k, s, 0), axis=axes, keepdims=True)
            total = lax.optimization_barrier(acc * factor(own, of_w)) + total
        y = total * token
    else:
        y = jnp.einsum(spec, v, p) * lax.optimization_barrier(factor(s, of_w) * token)
    largest = np.finfo(np.float32).max
    y = lax.clamp(-largest, y, largest)
    name = str(jnp.dtype(dtype))
    return lax.reduce_precision(y, *SCALE_BITS.get(name, (8, 23))).astype(dtype)


def scale_of(w, stack, inner, scale="tensor", scale_dtype="bfloat16"):
    """The scale each element of `w` has, and the number of its group, both of `w`'s shape."""
    out = [axis for axis in range(w.ndim) if axis not in (*stack, *inner)]
    order = [*stack, *out, *inner]
    sizes = [w.shape[axis] for axis in order]
    lead, kept = sizes[: len(stack)], sizes[len(stack) : len(stack) + len(out)]
    inputs = math.prod(w.shape[axis] for axis in inner)
    size = int(scale[6:]) if scale.startswith("group") else inputs
    canonical = jnp.transpose(w, order)
    if scale == "tensor":
        s = absmean(canonical.reshape(*lead, -1)).reshape(*lead, *(1 for _ in kept), 1)
    else:
        s = absmean(canonical.reshape(*lead, *kept, inputs // size, size))
        s = jnp.repeat(s, size, axis=-1) if scale != "row" else s
    s = lax.reduce_precision(jnp.maximum(s, 1e-5), *SCALE_BITS[scale_dtype])
    s = jnp.broadcast_to(s, (*lead, *kept, inputs)).reshape(sizes)
    group = jnp.broadcast_to(jnp.arange(inputs) // size, (*lead, *kept, inputs)).reshape(sizes)
    back = [order.index(axis) for axis in range(w.ndim)]
    return jnp.transpose(s, back), jnp.transpose(group, back)


def absmax(x, axes):
    """The activations' absmax per token, in x's shape with `axes` of size 1."""
    x = lax.stop_gradient(x).astype(jnp.float32)
    return jnp.maximum(jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True), 1e-5)


def blend(u, low, high, lam):
    """λ of the way from `u` to its rounded value, straight-through."""
    rounded = ste(u, jnp.clip(jnp.rint(u), low, high))
    return rounded if isinstance(lam, float) and lam == 1 else lam * rounded + (1 - lam) * u


def row_parallel(q, spec, x, w, shards, **options):
    """The sum of `shards` products over parts of the one contracted axis, each scaled by itself."""
    label = next(label for label in spec.split(",")[0] if label not in spec.split("->")[1])
    axis_x, axis_w = spec.index(label), spec.split(",")[1].index(label)
    size = x.shape[axis_x] // shards
    peak, total = absmax(x, [axis_x]), None
    for k in range(shards):
        part = lax.slice_in_dim(x, k * size, (k + 1) * size, axis=axis_x)

        def rows(w, start=k * size):
            return lax.slice_in_dim(w, start, start + size, axis=axis_w)

        y = q(spec, part, w, view=rows, inner=(axis_w,), peak=peak, **options)
        total = y if total is None else total + y
    return total
