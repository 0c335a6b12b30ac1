"""`ternary_matmul`: the op as callers use it, with its checks and its gradient."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.packed_product import canonical, check_operands, multiply
from bitnet_jax.ops.select import check_implementation
from bitnet_jax.ops.ternary_matmul.primitive import ternary_accumulate_p, ternary_matmul_p
from bitnet_jax.quant.layouts import LAYOUTS_OF, layout_of
from bitnet_jax.quant.tensor import TERNARY, QuantTensor

DTYPES = ("float32", "bfloat16")


def ternary_matmul(
    x: Array,
    w: QuantTensor,
    *,
    implementation: str | None = None,
    out_dtype: Any = None,
) -> Array:
    """As ``x @ w.weight().T`` with `x` rounded to 8 bits per token, codes never unpacked.

    x [..., in] gives [..., out]; a stacked `w` [*stack, out, in] takes x
    [*stack, ..., in] and gives [*stack, ..., out]. The sums are exact int32; the
    float32 operations and their order are those of `quant.ternary`, so every
    implementation and every number of threads gives the same bits.

    The gradient is straight-through: rounding activations counts as the identity, so
    x gets ``(g * s) @ trits`` in float32. The scale gets its true gradient. The codes
    are integers and get none: training changes masters, not packed weights.

    Args:
      implementation: None or "auto" for the best that runs here, or "native", "xla",
        "reference": a named one runs or raises `Unavailable` when lowered.
      out_dtype: float32 or bfloat16; `x`'s own dtype if None.
    """
    x = jnp.asarray(x)
    _check_layout(w)
    return multiply(
        ternary_matmul_p,
        x,
        w,
        dtypes=DTYPES,
        implementation=implementation,
        out_dtype=out_dtype,
        extra={"layout": w.layout},
    )


def ternary_accumulate(q: Array, w: QuantTensor, *, implementation: str | None = None) -> Array:
    """The exact int32 sums: int8 [..., in] gives int32 [..., out]; scales are not used."""
    q = jnp.asarray(q)
    _check_layout(w)
    check_operands("ternary_accumulate", q, w, ("int8",))
    x3, codes, _, shape = canonical(q, w)
    acc = ternary_accumulate_p.bind(
        x3,
        codes,
        out_features=w.out_features,
        layout=w.layout,
        implementation=check_implementation("ternary_accumulate", implementation),
    )
    return acc.reshape(shape)


def _check_layout(w: QuantTensor) -> None:
    known = LAYOUTS_OF[TERNARY]
    if w.kind != TERNARY or w.layout not in known:
        raise UsageError(
            "op.layout",
            f"ternary_matmul takes ternary weights in layout {' or '.join(known)}, not {w.kind} in "
            f"{w.layout}",
        )
    step = layout_of(w.layout).group_step
    if w.group_size % step:
        raise UsageError(
            "op.layout",
            f"ternary_matmul takes a scale for a multiple of {step} inputs in layout {w.layout}, "
            f"not for {w.group_size}",
            f"keep these weights in layout {known[0]}",
        )
