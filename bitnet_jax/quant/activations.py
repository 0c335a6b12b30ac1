"""What a quantized activation is: the rows of `ACTIVATIONS`, one token at a time.

    8 bits, absmax   a = max(max|x|, 1e-5)  r = 127 / a          clamp -128..127  a·float32(1/127)
    4 bits, absmax   a = max(max|x|, 1e-5)  r = 7 / a            clamp   -8..7    a·float32(1/7)
    4 bits, absmean  a = mean|x|            r = √7 / (a + 1e-5)  clamp   -8..7    a·float32(1/√7)

    q = clamp(rint(x * r), low, high)          x ≈ q · token_scale (the last column)

Sources: 8 bits, "The Era of 1-bit LLMs: Training Tips, Code and FAQ" (Ma et al., 2024);
4 bits by absmean, "BitNet a4.8: 4-bit Activations for 1-bit LLMs" (Wang et al., 2024,
arXiv 2411.04965), with its mean taken over one token; 4 bits by absmax is the 8-bit
formula with 7 for 127. The order of the float32 operations is ours
(docs/decisions/0002): `rint` rounds half to even, the mean is `absmean.absmean`, and
numpy and XLA give the same bits. Knows nothing of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.absmean import absmean, namespace
from bitnet_jax.quant.guards import barrier, uncontracted

# The smallest absmax, and what is added to a mean: a token of zeros has codes of zero.
EPSILON = np.float32(1e-5)


@dataclass(frozen=True)
class Range:
    """The integers of one row, and the number that its statistic is divided into.

    Attributes:
      low, high: codes lie in [low, high].
      spread: float; ``r = spread / statistic``.
    """

    low: int
    high: int
    spread: float


# (bits, statistic) -> what they mean.
ACTIVATIONS: dict[tuple[int, str], Range] = {
    (8, "absmax"): Range(-128, 127, 127.0),
    (4, "absmax"): Range(-8, 7, 7.0),
    (4, "absmean"): Range(-8, 7, math.sqrt(7.0)),
}


@dataclass(frozen=True)
class Activation:
    """How activations become integers: a key of `ACTIVATIONS`. Hashable, for static use.

    Attributes:
      bits: 8 or 4.
      statistic: ``absmax`` or ``absmean`` of a token.

    Raises:
      UsageError: there is no such row (``quant.activation``).
    """

    bits: int = 8
    statistic: str = "absmax"

    def __post_init__(self) -> None:
        if (self.bits, self.statistic) not in ACTIVATIONS:
            known = ", ".join(f"{bits} bits {name}" for bits, name in ACTIVATIONS)
            raise UsageError(
                "quant.activation",
                f"activations of {self.bits} bits by {self.statistic!r} are unknown",
                f"known: {known}",
            )

    @property
    def _row(self) -> Range:
        return ACTIVATIONS[self.bits, self.statistic]

    @property
    def low(self) -> int:
        """The smallest code."""
        return self._row.low

    @property
    def high(self) -> int:
        """The largest code."""
        return self._row.high

    @property
    def spread(self) -> np.float32:
        """What `multiplier` divides by the token's statistic."""
        return np.float32(self._row.spread)

    @property
    def inverse(self) -> np.float32:
        """float32(1/spread): ``token_scale = a * inverse``.

        A product, since XLA turns a division by a constant into it anyway.
        """
        return np.float32(1.0 / self._row.spread)


DEFAULT = Activation()
# The default row's constants under the names that its arithmetic is written with.
ACTIVATION_MAX = DEFAULT.spread
INVERSE_ACTIVATION_MAX = DEFAULT.inverse


def _absmax(x: Any) -> Any:
    return namespace(x).max(namespace(x).abs(x), axis=-1, keepdims=True, initial=0)


def _absmean(x: Any) -> Any:
    return absmean(x)[..., None]


# statistic -> (over the last axis of float32 x, keeping it; a of it; divisor of it)
_STATISTICS: dict[str, tuple[Callable, Callable, Callable]] = {
    "absmax": (_absmax, lambda s: namespace(s).maximum(s, EPSILON), lambda a: a),
    # The mean is a product and 1e-5 is added to it: contracted, XLA would round once.
    "absmean": (_absmean, lambda s: uncontracted(s, s), lambda a: a + EPSILON),
}


def statistic(x: Any, activation: Activation = DEFAULT) -> Any:
    """max|x| or mean|x| over the last axis, float32 [..., 1]: what `peak` stands in for.

    Where the last axis is sharded, the maximum of the shards' maxima (`lax.pmax`) is the
    whole token's; the mean of equal shards' means (`lax.pmean`) is too, to the last bit or
    two, since it adds in another order.
    """
    return _STATISTICS[activation.statistic][0](x.astype(np.float32))


def multiplier(x: Any, activation: Activation = DEFAULT, peak: Any = None) -> tuple[Any, Any]:
    """``(a, r)`` of each token, float32 [..., 1]: see the module's table."""
    found = statistic(x, activation) if peak is None else peak.astype(np.float32)
    _, of_statistic, divisor = _STATISTICS[activation.statistic]
    a = of_statistic(found)
    return a, activation.spread / divisor(a)


def quantize(x: Any, activation: Activation = DEFAULT, peak: Any = None) -> tuple[Any, Any, Any]:
    """Integer activations, token by token.

    Args:
      x: any float dtype [..., n], numpy or JAX.
      peak: [..., 1], the tokens' `statistic` if it is not that of `x` alone (a shard of
        a token: the maximum over the mesh). None computes it.

    Returns:
      q int8 of `x`'s shape, a float32 [..., 1], and token_scale float32 [..., 1] with
      ``x ≈ q * token_scale``. Of a token that is not finite, a is not finite either.
    """
    q, a = _integers(x, activation, peak)
    return q, a, token_scale(a, activation)


def token_scale(a: Any, activation: Activation = DEFAULT) -> Any:
    """``a * float32(1/spread)``.

    The barrier keeps XLA from reordering s * (a * c) to a * (s * c) when s is constant.
    """
    return barrier(a * activation.inverse)


def _integers(x: Any, activation: Activation, peak: Any) -> tuple[Any, Any]:
    xp = namespace(x)
    a, r = multiplier(x, activation, peak)
    q = xp.clip(xp.rint(x.astype(np.float32) * r), activation.low, activation.high)
    return q.astype(np.int8), a


def activation_scale(x: Any) -> Any:
    """``max(max|x| over the last axis, 1e-5)``, float32, shape [..., 1]."""
    return multiplier(x)[0]


def quantize_activations(x: Any) -> tuple[Any, Any]:
    """Per-token int8 activations: (q int8 of `x`'s shape, a float32 [..., 1])."""
    return _integers(x, DEFAULT, None)
