"""Attention and rotary positions: the standard's operators, and ONNX Runtime's own.

Everything comes down to `attend` on [batch, heads, length, size].
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from bitnet_jax.formats.onnx_ops.products import PRECISION
from bitnet_jax.formats.onnx_ops.table import MICROSOFT, Node, operator

NOTHING = -jnp.inf


def heads_of(x: Any, heads: int) -> Any:
    """[batch, length, heads * size] -> [batch, heads, length, size]."""
    batch, length, width = x.shape
    return jnp.reshape(x, (batch, length, heads, width // heads)).transpose(0, 2, 1, 3)


def joined(x: Any) -> Any:
    """[batch, heads, length, size] -> [batch, length, heads * size]."""
    batch, heads, length, size = x.shape
    return jnp.reshape(x.transpose(0, 2, 1, 3), (batch, length, heads * size))


def attend(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None,
    bias: Any = None,
    allowed: Any = None,
    softcap: float = 0.0,
) -> tuple[Any, dict[int, Any]]:
    """Softmax attention, key and value heads shared by groups of query heads.

    Args:
      bias: added to the scores, broadcast to [batch, heads, length, keys].
      allowed: which pairs take part; a row without any gives zeros.

    Returns:
      The output, and the scores at each stage that `qk_matmul_output_mode` names.
    """
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = jnp.repeat(k, group, 1), jnp.repeat(v, group, 1)
    scale = 1 / math.sqrt(q.shape[-1]) if not scale else scale
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision=PRECISION) * scale
    stages = {0: scores}
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    stages[1] = scores
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if allowed is not None:
        scores = jnp.where(allowed, scores, NOTHING)
    stages[2] = scores
    wide = scores.astype(jnp.float32) if scores.dtype.itemsize < 4 else scores
    top = jnp.max(wide, -1, keepdims=True)
    raised = jnp.exp(wide - jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.sum(raised, -1, keepdims=True)
    stages[3] = (raised / jnp.where(total == 0, 1, total)).astype(scores.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", stages[3], v, precision=PRECISION), stages


def causal(length: int, keys: int, before: Any) -> Any:
    """Query i sees keys up to ``before + i``; `before` a number or [batch]."""
    row = jnp.arange(length)[:, None] + jnp.reshape(jnp.asarray(before), (-1, 1, 1, 1))
    return jnp.arange(keys)[None, :] <= row


def _window(node: Node, length: int, keys: int, before: Any) -> Any:
    """Keys at most so far to the left and to the right of a query's own position."""
    row = jnp.arange(length)[:, None] + jnp.reshape(jnp.asarray(before), (-1, 1, 1, 1))
    far = jnp.arange(keys)[None, :] - row
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    allowed = None if left < 0 else far >= -left
    return allowed if right < 0 else _both(allowed, far <= right)


def _both(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one & other


@operator("Attention", since=23)
def attention(
    node: Node, q: Any, k: Any, v: Any, mask: Any = None, past_k: Any = None, past_v: Any = None,
    counted: Any = None,
) -> Any:  # fmt: skip
    flat = q.ndim == 3
    if flat:
        q = heads_of(q, node.need("q_num_heads"))
        k, v = (heads_of(x, node.need("kv_num_heads")) for x in (k, v))
    before: Any = 0
    if past_k is not None:
        before = past_k.shape[2]
        k, v = jnp.concatenate([past_k, k], 2), jnp.concatenate([past_v, v], 2)
    length, keys = q.shape[2], k.shape[2]
    allowed = None
    if counted is not None:
        counted = jnp.asarray(counted)
        before = counted - length
        allowed = jnp.arange(keys)[None, None, None] < counted[:, None, None, None]
    if node.get("is_causal", 0):
        allowed = _both(allowed, causal(length, keys, before))
    allowed = _both(allowed, _window(node, length, keys, before))
    bias = None
    if mask is not None:
        mask = jnp.asarray(mask)
        short = keys - mask.shape[-1]
        if short:
            fill: Any = False if mask.dtype == np.bool_ else NOTHING
            widths = [(0, 0)] * (mask.ndim - 1) + [(0, short)]
            mask = jnp.pad(mask, widths, constant_values=fill)
        if mask.dtype == np.bool_:
            allowed = _both(allowed, mask)
        else:
            bias = mask
    found, stages = attend(
        q, k, v, scale=node.get("scale"), bias=bias, allowed=allowed,
        softcap=node.get("softcap", 0.0),
    )  # fmt: skip
    found = joined(found) if flat else found
    return (found, k, v, stages[node.get("qk_matmul_output_mode", 0)])[: node.outputs]


# ---------------------------------------------------------------------------- rotary
def rotate(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    """Turns the first ``2 * cos.shape[-1]`` elements of each head; the rest stay.

    Args:
      x: [batch, heads, length, size].
      cos, sin: [batch or 1, length, half].
    """
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        one, two = turned[..., 0::2], turned[..., 1::2]
    else:
        one, two = turned[..., :half], turned[..., half:]
    real, imaginary = one * cos - two * sin, one * sin + two * cos
    if interleaved:
        found = jnp.stack([real, imaginary], -1).reshape(turned.shape)
    else:
        found = jnp.concatenate([real, imaginary], -1)
    return jnp.concatenate([found, rest], -1) if rest.shape[-1] else found


@operator("RotaryEmbedding", since=23)
def rotary(node: Node, x: Any, cos: Any, sin: Any, positions: Any = None) -> Any:
    flat = x.ndim == 3
    x = heads_of(x, node.need("num_heads")) if flat else jnp.asarray(x)
    if positions is not None:
        cos, sin = (jnp.take(table, positions, 0) for table in (cos, sin))
    half = (node.get("rotary_embedding_dim", 0) or x.shape[-1]) // 2
    if cos.shape[-1] != half:
        raise node.broken(f"has a table of {cos.shape[-1]} angles for {half}")
    found = rotate(x, cos, sin, bool(node.get("interleaved", 0)))
    return joined(found) if flat else found


@operator("RotaryEmbedding", domain=MICROSOFT)
def ms_rotary(node: Node, x: Any, positions: Any, cos: Any, sin: Any) -> Any:
    """As the standard's, with positions [1] (the first of the row) or [batch, length]."""
    flat, size = x.ndim == 3, 2 * cos.shape[-1]
    heads = node.get("num_heads", 0) or (x.shape[-1] // size if flat else x.shape[1])
    x = heads_of(x, heads) if flat else jnp.asarray(x)
    positions = jnp.asarray(positions)
    if positions.size == 1:
        positions = positions.reshape(1, 1) + jnp.arange(x.shape[2])[None]
    cos, sin = (jnp.take(jnp.asarray(table), positions, 0) for table in (cos, sin))
    found = rotate(x, cos, sin, bool(node.get("interleaved", 0)))
    return joined(found) if flat else found


# --------------------------------------------------------------------- ONNX Runtime's
@operator(
    "MultiHeadAttention", domain=MICROSOFT, notes="without packed inputs; no beam search caches"
)
def multi_head(
    node: Node, q: Any, k: Any = None, v: Any = None, bias: Any = None, padding: Any = None,
    added: Any = None, past_k: Any = None, past_v: Any = None, *rest: Any,
) -> Any:  # fmt: skip
    if k is None or v is None or q.ndim != 3 or any(item is not None for item in rest):
        raise node.unsupported("a packed query, key and value, or a shared cache")
    heads = node.need("num_heads")
    if bias is not None:
        widths = np.cumsum([q.shape[-1], k.shape[-1] if k.ndim == 3 else q.shape[-1]])
        parts = jnp.split(bias, widths.tolist())
        q = q + parts[0]
        k, v = (x + part if x.ndim == 3 else x for x, part in zip((k, v), parts[1:], strict=True))
    q = heads_of(q, heads)
    k, v = (heads_of(x, heads) if x.ndim == 3 else x for x in (k, v))
    before = 0
    if past_k is not None:
        before = past_k.shape[2]
        k, v = jnp.concatenate([past_k, k], 2), jnp.concatenate([past_v, v], 2)
    length, keys = q.shape[2], k.shape[2]
    allowed = causal(length, keys, before) if node.get("unidirectional", 0) else None
    if padding is not None:
        allowed = _both(allowed, _padded(node, padding, keys))
    found, _ = attend(q, k, v, scale=node.get("scale"), bias=added, allowed=allowed)
    return (joined(found), k, v)[: node.outputs]


def _padded(node: Node, mask: Any, keys: int) -> Any:
    """Which keys count: a mask [batch, keys], or [batch] counts from the left."""
    mask = jnp.asarray(mask)
    if mask.ndim == 1:
        return jnp.arange(keys)[None, None, None] < mask[:, None, None, None]
    if mask.ndim == 2:
        return (mask != 0)[:, None, None]
    if mask.ndim == 3:
        return (mask != 0)[:, None]
    raise node.unsupported(f"a mask of {mask.ndim} axes")


@operator("Attention", domain=MICROSOFT, notes="without a packed past")
def ms_attention(
    node: Node, x: Any, w: Any, bias: Any = None, mask: Any = None, past: Any = None,
    added: Any = None, *rest: Any,
) -> Any:  # fmt: skip
    if any(item is not None for item in rest) or node.get("do_rotary", 0):
        raise node.unsupported("a shared cache or rotary positions inside")
    heads = node.need("num_heads")
    widths = node.get("qkv_hidden_sizes") or [w.shape[1] // 3] * 3
    packed = jnp.matmul(x, w, precision=PRECISION)
    packed = packed if bias is None else packed + bias
    parts = jnp.split(packed, np.cumsum(widths)[:-1].tolist(), axis=-1)
    q, k, v = (heads_of(part, heads) for part in parts)
    before = 0
    if past is not None:
        before = past.shape[3]
        k, v = jnp.concatenate([past[0], k], 2), jnp.concatenate([past[1], v], 2)
    length, keys = q.shape[2], k.shape[2]
    allowed = causal(length, keys, before) if node.get("unidirectional", 0) else None
    if mask is not None:
        allowed = _both(allowed, _padded(node, mask, keys))
    found, _ = attend(q, k, v, scale=node.get("scale"), bias=added, allowed=allowed)
    return (joined(found), jnp.stack([k, v]))[: node.outputs]


@operator(
    "GroupQueryAttention", domain=MICROSOFT, static=(6,),
    notes="float caches, that grow; no packed query, key and value",
)  # fmt: skip
def group_query(
    node: Node, q: Any, k: Any, v: Any, past_k: Any, past_v: Any, last: Any, total: Any,
    cos: Any = None, sin: Any = None, positions: Any = None, added: Any = None, *rest: Any,
) -> Any:  # fmt: skip
    """`last` [batch] is each row's number of keys less one; rows are padded on the right."""
    if k is None or v is None or any(item is not None for item in rest):
        raise node.unsupported("a packed query, key and value, or attention sinks")
    heads, shared = node.need("num_heads"), node.need("kv_num_heads")
    q, k, v = heads_of(q, heads), heads_of(k, shared), heads_of(v, shared)
    length = q.shape[2]
    before = past_k.shape[2] if past_k is not None else 0
    last = jnp.asarray(last).reshape(-1)
    held = last + 1 - length if before else jnp.zeros_like(last)
    if node.get("do_rotary", 0):
        if positions is None:
            positions = held[:, None] + jnp.arange(length)[None]
        turn = bool(node.get("rotary_interleaved", 0))
        cos, sin = (jnp.take(jnp.asarray(table), positions, 0) for table in (cos, sin))
        q, k = rotate(q, cos, sin, turn), rotate(k, cos, sin, turn)
    if before:
        k, v = _placed(past_k, k, held), _placed(past_v, v, held)
    keys = k.shape[2]
    allowed = causal(length, keys, held)
    window = node.get("local_window_size", -1)
    if window > 0:
        row = jnp.arange(length)[:, None] + held.reshape(-1, 1, 1, 1)
        allowed = allowed & (jnp.arange(keys)[None] > row - window)
    found, _ = attend(
        q, k, v, scale=node.get("scale"), bias=added, allowed=allowed,
        softcap=node.get("softcap", 0.0),
    )  # fmt: skip
    return (joined(found), k, v)[: node.outputs]


def _placed(past: Any, new: Any, at: Any) -> Any:
    """A cache with `new` written from position ``at[batch]``."""
    batch, heads, length, size = new.shape
    whole = jnp.concatenate([past, jnp.zeros_like(new)], 2)
    places = at[:, None] + jnp.arange(length)[None]
    rows = jnp.arange(batch)[:, None]
    return whole.at[rows, :, places].set(new.transpose(0, 2, 1, 3))
