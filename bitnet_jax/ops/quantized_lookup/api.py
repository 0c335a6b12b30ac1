"""The op as callers use it."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.define import define
from bitnet_jax.ops.quantized_lookup.reference import quantized_lookup_reference
from bitnet_jax.quant.tensor import QuantTensor

MODES = ("fill", "clip")

quantized_lookup_p = define("quantized_lookup", quantized_lookup_reference)


def quantized_lookup(
    w: QuantTensor,
    indices: Any,
    *,
    mode: str = "fill",
    fill_value: float | None = None,
    wrap_negative: bool | None = None,
) -> Array:
    """``jnp.take(table, indices, axis=0)`` of the table that `w` stands for, in `w.dtype`.

    Bit for bit the rows of ``w.dequantize()`` where the outputs are its first axis; only
    the bytes of the rows asked for are read. Indices count the rows of the canonical
    matrix [*stack, out, in].

    Args:
      w: any kind, layout and scale kind.
      indices: integers [*stack, ...].
      mode: for an index out of range, "fill" gives `fill_value`, "clip" the nearest row.
      fill_value: NaN if None.
      wrap_negative: True counts negative indices from the end, False has them out of
        range. None does as `jnp.take`: wraps under "fill", not under "clip".

    Returns:
      [*stack, ..., *sizes of `w.in_axes`].

    Raises:
      UsageError: an unknown mode, indices that are no integers or lack the stacked axes, or
        a table without rows to clip to (``op.mode``, ``op.dtype``, ``op.shape``).
    """
    if mode not in MODES:
        raise UsageError(
            "op.mode", f"quantized_lookup has no mode {mode!r}", f"known: {', '.join(MODES)}"
        )
    indices = jnp.asarray(indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise UsageError("op.dtype", f"quantized_lookup takes integers, not {indices.dtype}")
    if indices.dtype.itemsize < 4:
        indices = indices.astype(jnp.int32)  # or the number of rows might not fit
    stack = w.stack_shape
    depth = len(stack)
    if indices.shape[:depth] != stack:
        wanted = ", ".join([*map(str, stack), "..."])
        raise UsageError(
            "op.shape",
            f"quantized_lookup needs indices [{wanted}], found {list(indices.shape)}",
        )
    if not w.out_features and indices.size:
        raise UsageError("op.shape", "quantized_lookup has no row in a table without rows")
    batch = math.prod(stack)
    lead = indices.shape[depth:]
    codes, scale = jnp.asarray(w.codes), jnp.asarray(w.scale)
    rows = quantized_lookup_p.bind(
        codes.reshape(batch, *codes.shape[depth:]),
        scale.reshape(batch, *scale.shape[depth:]),
        indices.reshape(batch, math.prod(lead)),
        layout=w.layout,
        out_features=w.out_features,
        in_features=w.in_features,
        scale_kind=w.scale_kind,
        group_size=w.group_size,
        out_dtype=str(w.dtype),
        mode=mode,
        wrap_negative=mode == "fill" if wrap_negative is None else wrap_negative,
        fill_value=None if fill_value is None else float(fill_value),
    )
    return rows.reshape(*stack, *lead, *(w.shape[axis] for axis in w.in_axes))
