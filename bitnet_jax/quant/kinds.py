"""The kinds of quantized weights: the rows of `KINDS`.

    ternary            s = round_to(scale_dtype, max(absmean(W), 1e-5))            (`ternary.py`)
    int8, int6, int4   s = round_to(scale_dtype, max(absmax(W) * float32(1/high), 2^-24))
    all                codes = clamp(rint(W * (1/s)), -high, high)

with high = 1, 127, 31 and 7. Codes are symmetric: the lowest number of the width is not
used, so -W has the codes of W negated. Float32 in this order; `rint` rounds half to even;
numpy and XLA give the same bits. Works on canonical weights [*stack, out, in]; knows
nothing of how codes are stored (`layouts.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.quant.absmean import namespace
from bitnet_jax.quant.guards import round_scale
from bitnet_jax.quant.ternary import absmean_scale, codes_of, reduce_weights

# The smallest scale of an absmax kind. It only has to keep 1/s finite for a matrix of
# zeros, in each dtype that a scale can have: 2^-24 is float16's smallest positive number,
# exact in all three, with an exact reciprocal. Ternary's 1e-5 is a floor under a mean
# weight; under absmax/127 it would take bits from every matrix whose largest weight is
# below 1.3e-3, as that of a row or a group may be.
SMALLEST_SCALE = np.float32(2.0**-24)


@dataclass(frozen=True)
class Kind:
    """One row of `KINDS`.

    Attributes:
      name: as rules and tensors write it.
      bits: width of a stored code.
      high: codes lie in [-high, high].
      statistic: ``absmean`` or ``absmax`` of what shares a scale.
    """

    name: str
    bits: int
    high: int
    statistic: str

    @property
    def low(self) -> int:
        """The smallest code."""
        return -self.high


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("ternary", 2, 1, "absmean"),
        Kind("int8", 8, 127, "absmax"),
        Kind("int6", 6, 31, "absmax"),
        Kind("int4", 4, 7, "absmax"),
    )
}


def kind_of(kind: str | Kind) -> Kind:
    """The row of `KINDS` by name (a row is its own).

    Raises:
      UsageError: there is none (``quant.kind``).
    """
    if isinstance(kind, Kind):
        return kind
    if kind not in KINDS:
        raise UsageError(
            "quant.kind", f"there is no kind of weight {kind!r}", did_you_mean(kind, KINDS)
        )
    return KINDS[kind]


def _absmax(w: Any) -> Any:
    return namespace(w).max(namespace(w).abs(w.astype(np.float32)), axis=-1, initial=0)


def kind_scale(
    w: Any,
    kind: str | Kind,
    scale_kind: str = "tensor",
    group_size: int = 0,
    scale_dtype: str = "bfloat16",
) -> Any:
    """Scale of canonical weights [*stack, out, in] of any float dtype, float32.

    Returns:
      [*stack] for ``tensor``, [*stack, out] for ``row``, [*stack, out, in/group] for
      ``group``.

    Raises:
      UsageError: `kind`, `scale_kind`, `group_size` or `scale_dtype` is none that there is.
    """
    kind = kind_of(kind)
    if kind.statistic == "absmean":
        return absmean_scale(w, scale_kind, group_size, scale_dtype)
    peak = reduce_weights(w, _absmax, scale_kind, group_size)
    scale = namespace(w).maximum(peak * np.float32(1.0 / kind.high), SMALLEST_SCALE)
    return round_scale(scale, scale_dtype)


def kind_codes(
    w: Any, scale: Any, kind: str | Kind, scale_kind: str = "tensor", group_size: int = 0
) -> Any:
    """``clamp(rint(W * (1/s)), -high, high)``, int8 of `w`'s shape [*stack, out, in]."""
    return codes_of(w, scale, kind_of(kind).high, scale_kind, group_size)


def quantize_weights(
    w: Any,
    kind: str | Kind,
    scale_kind: str = "tensor",
    group_size: int = 0,
    scale_dtype: str = "bfloat16",
) -> tuple[Any, Any]:
    """``(codes int8, scale float32)`` of canonical weights: `kind_scale`, `kind_codes`."""
    scale = kind_scale(w, kind, scale_kind, group_size, scale_dtype)
    return kind_codes(w, scale, kind, scale_kind, group_size), scale
