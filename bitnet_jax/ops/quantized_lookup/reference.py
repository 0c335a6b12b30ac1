"""What `quantized_lookup` means: gather packed rows, unpack those, scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from bitnet_jax.quant.guards import uncontracted
from bitnet_jax.quant.layouts import layout_of
from bitnet_jax.quant.scaling import write_output


def quantized_lookup_reference(
    codes: Array,
    scale: Array,
    indices: Array,
    *,
    layout: str,
    out_features: int,
    in_features: int,
    scale_kind: str,
    group_size: int,
    out_dtype: str,
    mode: str,
    wrap_negative: bool,
    fill_value: float | None,
) -> Array:
    """Packed codes [B, ...], scale [B, ...], int indices [B, N] -> [B, N, in].

    A `fill_value` of None is NaN: a NaN among the parameters equals no other one.
    """
    if wrap_negative:
        indices = jnp.where(indices < 0, indices + out_features, indices)
    inside = (indices >= 0) & (indices < out_features)
    row = jnp.clip(indices, 0, max(out_features - 1, 0))

    def one(codes: Array, scale: Array, row: Array) -> Array:
        integers = layout_of(layout).take(codes, row, in_features).astype(jnp.float32)
        by_row = scale if scale_kind == "tensor" else scale[row]
        if scale_kind == "group":
            wide = jnp.repeat(by_row, group_size, axis=-1)
        else:
            wide = by_row[..., None]
        return uncontracted(integers * wide, wide)

    rows = write_output(jax.vmap(one)(codes, scale, row), out_dtype)
    if mode == "clip":
        return rows
    fill = jnp.asarray(jnp.nan if fill_value is None else fill_value, out_dtype)
    return jnp.where(inside[..., None], rows, fill)
