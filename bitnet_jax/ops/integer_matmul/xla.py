"""The portable form: as the reference, with one token's sums in the shape XLA does well.

On CPU, XLA's int8 dot takes about five times longer over one token than over two. So
one token of int8 weights is multiplied as two. int4 and int6 weights, which a dot would
first unpack to memory, are multiplied and summed in one pass over the packed bytes: a
tenth to a quarter less time than the dot over two, by groups of 64 a third of it
(2560 x 2560, 2 cores). Ternary weights have their own forms in `ternary_matmul`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from bitnet_jax.ops import packed_product
from bitnet_jax.ops.packed_product import product
from bitnet_jax.ops.ternary_matmul import xla as ternary
from bitnet_jax.quant.activations import Activation
from bitnet_jax.quant.layouts import LAYOUTS_OF, PLANES, layout_of, unpack_codes
from bitnet_jax.quant.tensor import TERNARY


def dot_planes(q: Array, packed: Array, layout: str, segment: int) -> Array:
    """Exact sums by segment, from bit fields: nothing is unpacked to memory.

    Args:
      q: int8 [B, M, in].
      packed: [B, out, bytes] in a layout of `PLANES`.
      segment: columns of one sum, a multiple of the layout's step unless it is all.

    Returns:
      int32 [segments, B, M, out].
    """
    planes = PLANES[layout](packed)
    step = len(planes)
    width = step * planes[0].shape[-1]
    segments = max(q.shape[-1] // segment, 1)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, width - q.shape[-1]))).astype(jnp.int32)
    products: Array = jnp.int32(0)
    for column, plane in enumerate(planes):
        codes = plane.astype(jnp.int32)[:, None]
        products = products + codes * q[:, :, None, column::step]
    by_segment = products.reshape(*products.shape[:3], segments, products.shape[3] // segments)
    return jnp.moveaxis(by_segment.sum(-1), -1, 0)


def _row_sums(
    q: Array,
    codes: Array,
    *,
    layout: str,
    out_features: int,
    scale_kind: str,
    group_size: int,
    platform: str,
) -> Array:
    """The exact sums of weights that lie in rows."""
    one = platform == "cpu" and q.shape[1] == 1 and q.shape[-1] > 0
    grouped = scale_kind == "group"
    segment = group_size if grouped else q.shape[-1]
    step = layout_of(layout).step
    if one and step > 1 and (segment % step == 0 or not grouped):
        acc = dot_planes(q, codes, layout, segment)
        return acc if grouped else acc[0]
    if one:
        q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))
    matrix = unpack_codes(codes, layout, out_features, q.shape[-1])
    acc = packed_product.sums(q, matrix, scale_kind, group_size)
    return acc[..., :1, :] if one else acc


# layout id -> its sums; a layout that is not here lies in rows
SUMS: dict[str, Callable[..., Array]] = dict.fromkeys(LAYOUTS_OF[TERNARY], ternary.sums)


def matmul(
    x: Array,
    codes: Array,
    scale: Array,
    peak: Array | None = None,
    *,
    layout: str,
    activation: Activation,
    out_features: int,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    platform: str,
) -> Array:
    """As `reference.matmul`."""

    def accumulate(q: Array) -> Array:
        return SUMS.get(layout, _row_sums)(
            q,
            codes,
            layout=layout,
            out_features=out_features,
            scale_kind=scale_kind,
            group_size=group_size,
            platform=platform,
        )

    return product(
        x,
        scale,
        accumulate,
        scale_kind=scale_kind,
        out_dtype=out_dtype,
        activation=activation,
        peak=peak,
    )
