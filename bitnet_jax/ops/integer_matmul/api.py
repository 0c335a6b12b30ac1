"""`integer_matmul`: the op as callers use it, with its checks."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.integer_matmul.primitive import integer_matmul_p
from bitnet_jax.ops.packed_product import multiply
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.ops.ternary_matmul.api import DTYPES as TERNARY_DTYPES
from bitnet_jax.quant.activations import DEFAULT, Activation
from bitnet_jax.quant.kinds import KINDS
from bitnet_jax.quant.layouts import LAYOUTS_OF, kinds_in_words
from bitnet_jax.quant.tensor import TERNARY, QuantTensor

DTYPES = ("float32", "bfloat16", "float16")
_LARGEST_SUM = 2**31 - 1


def integer_matmul(
    x: Array,
    w: QuantTensor,
    *,
    activation: Activation = DEFAULT,
    peak: Array | None = None,
    implementation: str | None = None,
    out_dtype: Any = None,
) -> Array:
    """As ``x @ w.weight().T`` with `x` rounded as `activation` says, for any kind of `w`.

    x [..., in] gives [..., out]; a stacked `w` [*stack, out, in] takes x
    [*stack, ..., in] and gives [*stack, ..., out]. The sums are exact int32; the float32
    operations and their order are those of `quant.scaling`. Ternary weights under the
    default activation are `ternary_matmul` itself, wherever that takes `x`.

    The gradient is straight-through: rounding activations counts as the identity, so
    x gets ``(g * s) @ codes`` in float32. The scale gets its true gradient; codes and
    `peak` get none.

    Args:
      x: float32, bfloat16 or float16.
      peak: [..., 1] for x [..., in], the tokens' statistic where it is not that of `x`
        alone, as `quant.activations.quantize` takes it.
      implementation: None or "auto" for the best that runs here and takes this call, or
        "native", "xla", "reference": a named one runs or raises when lowered.
      out_dtype: float32, bfloat16 or float16; `x`'s own dtype if None.

    Raises:
      UsageError: a dtype or shape that does not fit (``op.dtype``, ``op.shape``), a layout
        that is not the kind's (``op.layout``), or more inputs than int32 sums hold
        (``op.in_features``).
    """
    x = jnp.asarray(x)
    if peak is None and activation == DEFAULT and w.kind == TERNARY:
        wanted = {x.dtype.name, jnp.dtype(x.dtype if out_dtype is None else out_dtype).name}
        if wanted <= set(TERNARY_DTYPES):
            return ternary_matmul(x, w, implementation=implementation, out_dtype=out_dtype)
    _check(x, w, activation, peak)
    return multiply(
        integer_matmul_p,
        x,
        w,
        dtypes=DTYPES,
        implementation=implementation,
        out_dtype=out_dtype,
        activation=activation,
        peak=peak,
        extra={"layout": w.layout, "activation": activation},
    )


def _check(x: Array, w: QuantTensor, activation: Activation, peak: Array | None) -> None:
    if w.layout not in LAYOUTS_OF.get(w.kind, ()):
        raise UsageError(
            "op.layout",
            f"integer_matmul takes {kinds_in_words()}; not {w.kind} in {w.layout}",
        )
    most = _LARGEST_SUM // (KINDS[w.kind].high * -activation.low)
    if w.in_features > most:
        raise UsageError(
            "op.in_features",
            f"{w.in_features} inputs to one product of {w.kind} weights and {activation.bits}-bit "
            f"activations; int32 holds the sums of {most}",
            "split the contraction",
        )
    if peak is not None and peak.shape != (*x.shape[:-1], 1):
        raise UsageError(
            "op.shape",
            f"integer_matmul needs peak {[*x.shape[:-1], 1]}, found {list(peak.shape)}",
        )
