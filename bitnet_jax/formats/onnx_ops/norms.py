"""Normalizations, by the formulas of the ONNX specification."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bitnet_jax.formats.onnx_ops.table import MICROSOFT, Node, axis_of, operator


def _wide(x: Any) -> Any:
    """Statistics of 8 and 16 bit floats are taken in float32."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else jnp.asarray(x)


def _standard(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    """`x` with mean 0 and variance 1 over `axes`, the mean, and 1 / deviation."""
    mean = jnp.mean(x, axes, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + epsilon)
    return (x - mean) * inverse, mean, inverse


@operator("LayerNormalization")
def layer_norm(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    axis = axis_of(node, node.get("axis", -1), x.ndim)
    over = tuple(range(axis, x.ndim))
    found, mean, inverse = _standard(_wide(x), over, node.get("epsilon", 1e-5))
    found = found.astype(x.dtype) * scale
    found = found if bias is None else found + bias
    return (found, mean, inverse)[: node.outputs]


def _rms(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any]:
    wide = _wide(x)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axes, keepdims=True) + epsilon)
    return (wide * inverse).astype(x.dtype), inverse


# ONNX Runtime has the simplified form in the standard's domain too.
@operator("RMSNormalization", since=23)
@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=MICROSOFT)
def rms_norm(node: Node, x: Any, scale: Any) -> Any:
    axis = axis_of(node, node.get("axis", -1), x.ndim)
    found, inverse = _rms(x, tuple(range(axis, x.ndim)), node.get("epsilon", 1e-5))
    return (found * scale, inverse)[: node.outputs]


def _channels(value: Any, rank: int) -> Any:
    return jnp.reshape(value, (-1, *(1,) * (rank - 2)))


@operator("BatchNormalization", notes="as in inference")
def batch_norm(node: Node, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    if node.get("training_mode", 0) or (node.opset < 7 and not node.get("is_test", 0)):
        raise node.unsupported("training mode", "export the model in evaluation mode")
    factor = scale / jnp.sqrt(variance + node.get("epsilon", 1e-5))
    rank = max(x.ndim, 2)
    return x * _channels(factor, rank) + _channels(bias - mean * factor, rank)


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    over = tuple(range(2, x.ndim))
    found, _, _ = _standard(_wide(x), over, node.get("epsilon", 1e-5))
    return found.astype(x.dtype) * _channels(scale, x.ndim) + _channels(bias, x.ndim)


@operator("GroupNormalization", since=18)
@operator("GroupNormalization", since=21)
def group_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    """Scale and bias: one for a channel since opset 21, one for a group before."""
    groups = node.need("num_groups")
    parts = jnp.reshape(_wide(x), (x.shape[0], groups, -1))
    found, _, _ = _standard(parts, (2,), node.get("epsilon", 1e-5))
    found = found.reshape(x.shape).astype(x.dtype)
    if node.opset < 21:
        scale, bias = (jnp.repeat(jnp.asarray(v), x.shape[1] // groups) for v in (scale, bias))
    return found * _channels(scale, x.ndim) + _channels(bias, x.ndim)


@operator("GroupNorm", domain=MICROSOFT)
def ms_group_norm(node: Node, x: Any, gamma: Any, beta: Any) -> Any:
    last = node.get("channels_last", 1)
    x = jnp.moveaxis(x, -1, 1) if last else x
    parts = jnp.reshape(x, (x.shape[0], node.need("groups"), -1))
    found, _, _ = _standard(parts, (2,), node.get("epsilon", 1e-5))
    found = found.reshape(x.shape) * _channels(gamma, x.ndim) + _channels(beta, x.ndim)
    found = found * jax.nn.sigmoid(found) if node.get("activation", 0) else found
    return jnp.moveaxis(found, 1, -1) if last else found


@operator("LpNormalization")
def lp_norm(node: Node, x: Any) -> Any:
    axis = axis_of(node, node.get("axis", -1), x.ndim)
    if node.get("p", 2) == 1:
        size = jnp.sum(jnp.abs(x), axis, keepdims=True)
    else:
        size = jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
    return jnp.where(size == 0, 0, x / jnp.where(size == 0, 1, size))


@operator("MeanVarianceNormalization")
def mean_variance_norm(node: Node, x: Any) -> Any:
    over = tuple(node.get("axes", (0, 2, 3)))
    mean = jnp.mean(x, over, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(x), over, keepdims=True) - mean * mean)
    return (x - mean) / (deviation + 1e-9)


@operator("LRN")
def lrn(node: Node, x: Any) -> Any:
    size = node.need("size")
    low = (size - 1) // 2
    squares = jnp.pad(
        jnp.square(x), [(low, size - 1 - low) if i == 1 else (0, 0) for i in range(x.ndim)]
    )
    total = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    base = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total
    return x / base ** node.get("beta", 0.75)


# -------------------------------------------------------------------- com.microsoft
def _skip(x: Any, skip: Any, bias: Any) -> Any:
    total = x + skip
    return total if bias is None else total + bias


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    node: Node, x: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None
) -> Any:
    total = _skip(x, skip, bias)
    found, mean, inverse = _standard(_wide(total), (x.ndim - 1,), node.get("epsilon", 1e-12))
    found = found.astype(x.dtype) * gamma
    found = found if beta is None else found + beta
    return (found, mean, inverse, total)[: node.outputs]


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(node: Node, x: Any, skip: Any, gamma: Any, bias: Any = None) -> Any:
    total = _skip(x, skip, bias)
    found, inverse = _rms(total, (x.ndim - 1,), node.get("epsilon", 1e-12))
    return (found * gamma, inverse, inverse, total)[: node.outputs]


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    node: Node, ids: Any, segments: Any, words: Any, positions: Any, types: Any, gamma: Any,
    beta: Any, mask: Any = None, places: Any = None,
) -> Any:  # fmt: skip
    batch, length = ids.shape
    places = jnp.arange(length)[None] if places is None else places
    total = jnp.take(words, ids, 0) + jnp.take(positions, places, 0)
    if segments is not None:
        total = total + jnp.take(types, segments, 0)
    found, _, _ = _standard(total, (2,), node.get("epsilon", 1e-12))
    counted = jnp.zeros(batch, jnp.int32) if mask is None else jnp.sum(mask, 1, dtype=jnp.int32)
    return (found * gamma + beta, counted, total)[: node.outputs]
