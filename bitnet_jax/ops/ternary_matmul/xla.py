"""The portable form: as the reference, with the product in the shape that XLA does well.

Few tokens: one fused multiply-and-sum straight from the packed words, so the codes
are read once and never unpacked to memory. On CPU, XLA's own dots at one token are 20
(float32) to 45 (int8) times slower, and this form is faster than a float32 `x @ W`;
each further token costs it the same again, so from a few on XLA's int8 dot wins
(benchmarks/LOG.md). Codes of `t1.16x20` are turned to `t2.16x16` first.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from bitnet_jax.ops.packed_product import dot_groups, product
from bitnet_jax.ops.ternary_matmul import reference
from bitnet_jax.quant.dense import as_plain
from bitnet_jax.quant.packing import BLOCK, unpack_trits
from bitnet_jax.quant.packing import LAYOUT as PLAIN

# Tokens up to which the fused form is used, by platform.
FEW_TOKENS = {"cpu": 4}


def dot_words(q: Array, codes: Array, out_features: int, segment: int) -> Array:
    """Exact sums by segment, from 32-bit words: one word is 16 columns of one row.

    Bits ``8p + 2j`` of row r's word hold the code of column ``4j + p``, see
    `quant/packing.py`; the sum of the activations takes the codes' offset back.

    Args:
      q: int8 [B, M, in].
      segment: columns of one sum, a multiple of 16 unless it is all of them.

    Returns:
      int32 [segments, B, M, out].
    """
    batch, blocks, lines, _ = codes.shape
    tokens = q.shape[1]
    segments = max(-(-q.shape[-1] // segment), 1)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, lines * BLOCK - q.shape[-1]))).astype(jnp.int32)
    q = q.reshape(batch, tokens, segments, 1, lines // segments, 1, BLOCK)
    # Little-endian, as the layout is: XLA defines this cast by significance, not by memory.
    words = lax.bitcast_convert_type(codes.reshape(batch, blocks, lines, BLOCK, 4), jnp.uint32)
    words = words.reshape(batch, 1, blocks, segments, lines // segments, BLOCK)
    words = jnp.moveaxis(words, 3, 2)  # [B, 1, segments, OB, lines, row]
    products: Array = jnp.int32(0)
    for column in range(BLOCK):
        shift = jnp.uint32(8 * (column % 4) + 2 * (column // 4))
        code = ((words >> shift) & jnp.uint32(3)).astype(jnp.int32)
        products = products + code * q[..., column]
    acc = products.sum(4).reshape(batch, tokens, segments, blocks * BLOCK)
    acc = acc - q.sum((3, 4, 5, 6))[..., None]
    return jnp.moveaxis(acc, 2, 0)[..., :out_features]


def accumulate(q: Array, codes: Array, *, out_features: int, layout: str, platform: str) -> Array:
    """As `reference.accumulate`."""
    codes = as_plain(codes, layout, q.shape[-1])
    if q.shape[1] <= FEW_TOKENS.get(platform, 0) and q.shape[-1]:
        return dot_words(q, codes, out_features, q.shape[-1])[0]
    return reference.accumulate(
        q, codes, out_features=out_features, layout=PLAIN, platform=platform
    )


def sums(
    q: Array,
    codes: Array,
    *,
    out_features: int,
    layout: str,
    scale_kind: str,
    group_size: int,
    platform: str,
) -> Array:
    """The exact sums that `scale_output` takes, as `packed_product.sums` of the trits."""
    codes = as_plain(codes, layout, q.shape[-1])
    if scale_kind != "group":
        return accumulate(q, codes, out_features=out_features, layout=PLAIN, platform=platform)
    if q.shape[1] <= FEW_TOKENS.get(platform, 0) and group_size % BLOCK == 0:
        return dot_words(q, codes, out_features, group_size)
    return dot_groups(q, unpack_trits(codes, out_features, q.shape[-1]), group_size)


def matmul(
    x: Array,
    codes: Array,
    scale: Array,
    *,
    out_features: int,
    layout: str,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    platform: str,
) -> Array:
    """As `reference.matmul`."""

    def accumulated(q: Array) -> Array:
        return sums(
            q,
            codes,
            out_features=out_features,
            layout=layout,
            scale_kind=scale_kind,
            group_size=group_size,
            platform=platform,
        )

    return product(x, scale, accumulated, scale_kind=scale_kind, out_dtype=out_dtype)
