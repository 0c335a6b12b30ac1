"""The op as the pass `fuse_linears` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitnet_jax.ops.define import define_fused
from bitnet_jax.ops.fused_linears import native
from bitnet_jax.ops.fused_linears.reference import fused_linears_reference
from bitnet_jax.quant.layouts import LAYOUT_OF
from bitnet_jax.quant.tensor import TERNARY

fused_linears_p = define_fused(
    "fused_linears", fused_linears_reference, native=native.fused_linears_native
)


def fused_linears(
    x: Any,
    weights: Sequence[tuple[Any, Any]],
    *,
    out_features: Sequence[int],
    up: Any = None,
    gate: str = "",
    norm: Any = None,
    eps: float = 0.0,
    add: Any = None,
    layout: str = LAYOUT_OF[TERNARY],
    scale_kind: str = "tensor",
    group_size: int = 0,
) -> list[Any]:
    """Ternary products of one input, its gate and norm before them, a sum after.

    It has no derivative and no batching rule: it stands in compiled programs only.

    Args:
      x: float32 [1, M, in]; the gate, where `gate` names one.
      weights: for each product the packed codes [1, OB, IB, 64], all in `layout`, and float32
        scales; at most `native.MOST_WEIGHTS`.
      out_features: rows of each weight.
      up: float32 [1, M, in], what is gated.
      gate: a key of `native.GATES`; empty: none.
      norm: float32 [in], the weight of an RMSNorm before the products, or None.
      add: float32 [1, M, out], added to the only product, or None.

    Returns:
      float32 [1, M, out] for each weight.
    """
    optional = [value for value in (up, norm, add) if value is not None]
    flat = [value for pair in weights for value in pair]
    return fused_linears_p.bind(
        x,
        *optional,
        *flat,
        gate=gate,
        normed=norm is not None,
        eps=float(eps),
        added=add is not None,
        layout=layout,
        scale_kind=scale_kind,
        group_size=group_size,
        out_features=tuple(out_features),
    )
