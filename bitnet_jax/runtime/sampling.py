"""Logits to the next token: greedy, temperature, top-k, top-p, min-p, seeded.

The order of filters is that of `transformers`: temperature, top-k, top-p, min-p
(vLLM takes min-p before top-k; llama.cpp takes the temperature last, which makes a
difference to top-p). Equal logits stand or fall together, in every filter. Greedy
is temperature 0 and takes the lowest id among equals.

One compiled function per shape: every parameter is an array with a value per row,
so no value recompiles it. A row's token depends on that row's logits, parameters,
seed and step only, and not on its neighbours or on how many there are: thresholds
and draws are exact integer sums, which have no order to depend on. Knows nothing
of models or text; logits must hold no NaN and no +inf (the engine sees to it).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bitnet_jax.core.errors import UsageError

MAX_TEMPERATURE = 100.0
_INT32_MAX = 2**31 - 1

# A probability is 26 bits in two limbs of 13, relative to the likeliest token: the sum of
# 2**18 limbs stays within 31 bits. What is 2**27 times less likely than the best is never drawn.
_LIMB = 13
_LOW = 2**_LIMB - 1
_ONE = 2 ** (2 * _LIMB)
_COARSE = np.exp2(-np.arange(2**_LIMB) / 2.0**_LIMB).astype(np.float32)
_FINE = np.exp2(-np.arange(2**_LIMB) / 4.0**_LIMB).astype(np.float32)
_MAX_VOCABULARY = 2**18
_BLOCK = 512
_HEAD = 256


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens; checked when made.

    Attributes:
      temperature: 0 is greedy, 1 the model's own distribution; at most 100.
      top_k: keep the k likeliest; 0 keeps all.
      top_p: keep the likeliest that together have this probability; 1 keeps all.
      min_p: keep what is at least this share as likely as the likeliest; 0 keeps all.
      seed: any 64-bit integer; equal seeds give equal tokens.
      max_tokens: how many tokens at most.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    max_tokens: int = 256

    def __post_init__(self):
        """Raises UsageError ``sampling.<name>`` for a value outside its range."""
        for name, (kind, low, high, says) in _RANGES.items():
            value = getattr(self, name)
            right_kind = isinstance(value, kind) and not isinstance(value, bool | np.bool_)
            if not right_kind or not low <= value <= high:  # NaN compares false
                raise UsageError(f"sampling.{name}", f"{name} is {value!r}", f"{name} is {says}")


_TINY = math.ulp(0.0)
_RANGES: dict[str, tuple[type, float, float, str]] = {
    "temperature": (numbers.Real, 0, MAX_TEMPERATURE, "0 (greedy) to 100"),
    "top_k": (numbers.Integral, 0, _INT32_MAX, "a whole number, 0 (off) or more"),
    "top_p": (numbers.Real, _TINY, 1, "above 0, at most 1 (off)"),
    "min_p": (numbers.Real, 0, 1, "0 (off) to 1"),
    "seed": (numbers.Integral, -(2**63), 2**64 - 1, "a whole number of 64 bits"),
    "max_tokens": (numbers.Integral, 1, _INT32_MAX, "a whole number, 1 or more"),
}


class SamplingRows(NamedTuple):
    """One row of parameters per row of logits; a pytree, values are traced.

    temperature, top_p, min_p: float32 [B]; top_k: int32 [B]; seed: uint32 [B, 2].
    """

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    seed: Any

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> SamplingRows:
        """Returns the arrays for a batch."""
        seeds = [(p.seed & 0xFFFFFFFF, (p.seed >> 32) & 0xFFFFFFFF) for p in params]
        # A p that float32 would round to 0 keeps the likeliest token only, as it should.
        least = np.finfo(np.float32).tiny
        return cls(
            temperature=np.array([p.temperature for p in params], np.float32),
            top_k=np.array([p.top_k for p in params], np.int32),
            top_p=np.array([max(p.top_p, least) for p in params], np.float32),
            min_p=np.array([p.min_p for p in params], np.float32),
            seed=np.array(seeds, np.uint32).reshape(-1, 2),
        )


@jax.jit
def sample(logits: Array, rows: SamplingRows, step: Array) -> Array:
    """Returns the next token of each row, int32 [B].

    Args:
      logits: float32 [B, vocab].
      rows: one parameter row per logits row.
      step: int32 [B], how many tokens of that row's generation came before. With the
        seed it makes the row's random number.
    """
    if logits.shape[-1] > _MAX_VOCABULARY:
        raise UsageError(
            "sampling.vocabulary",
            f"sampling holds at most {_MAX_VOCABULARY} tokens, not {logits.shape[-1]}",
        )
    greedy = greedy_tokens(logits)
    drawn = rows.temperature > 0
    # A batch that is greedy throughout pays for nothing else.
    chosen = jax.lax.cond(
        jnp.any(drawn), lambda: _draw(kept_weights(logits, rows), rows, step), lambda: greedy
    )
    return jnp.where(drawn, chosen, greedy)


def kept_weights(logits: Array, rows: SamplingRows) -> Array:
    """Returns each token's weight, uint32 [B, vocab]: 0 where a filter took it out.

    Weights are probabilities in units of 2**-26 of the likeliest one's.
    """
    # Kept in memory: computing the powers again in each pass costs more than reading them.
    weights = jax.lax.optimization_barrier(_weights(logits, rows.temperature))
    floor = jnp.ceil(rows.min_p * _ONE).astype(jnp.uint32)[:, None]
    keys = _order_keys(logits)
    # Nearly every threshold lies among the best few, which are cheap to find in order.
    best, at = jax.lax.top_k(logits, min(_HEAD, logits.shape[-1]))
    head = _order_keys(best)

    least = _top_k_threshold(keys, head, rows.top_k)
    weights = jnp.where(keys >= least[:, None], weights, 0)
    least = _top_p_threshold(keys, head, weights, jnp.take_along_axis(weights, at, -1), rows.top_p)
    # Weights are relative to the likeliest: no filter before this one changes that.
    keep = (keys >= least[:, None]) & (weights >= floor)
    return jnp.where(keep, weights, 0)


def _top_k_threshold(keys: Array, head: Array, top_k: Array) -> Array:
    """Returns the key of the k-th largest, ties counted each; 0 where top-k is off."""
    limited = (top_k > 0) & (top_k < keys.shape[-1])
    wanted = jnp.where(limited, top_k, 0).astype(jnp.uint32)
    place = jnp.clip(top_k - 1, 0, head.shape[-1] - 1)[:, None]
    near = jnp.take_along_axis(head, place, -1)[:, 0]
    beyond = limited & (top_k > head.shape[-1])
    far = jax.lax.cond(
        jnp.any(beyond),
        lambda: _largest_threshold(
            keys, lambda chosen: jnp.sum(chosen, -1, dtype=jnp.uint32) >= wanted
        ),
        lambda: near,
    )
    return jnp.where(limited, jnp.where(beyond, far, near), 0)


def _top_p_threshold(
    keys: Array, head: Array, weights: Array, head_weights: Array, top_p: Array
) -> Array:
    """Returns the largest key from which on the mass reaches p; 0 where top-p is off."""
    high, low = _limbs(weights)
    cut = top_p < 1
    goal = top_p * _value(jnp.sum(high, -1), jnp.sum(low, -1))
    head_high, head_low = _limbs(head_weights)
    reached = _value(*_running(head_high, head_low)) >= goal[:, None]
    near = jnp.take_along_axis(head, jnp.argmax(reached, -1, keepdims=True), -1)[:, 0]
    beyond = cut & ~reached[:, -1]

    def enough(chosen):
        sums = [jnp.sum(jnp.where(chosen, limb, 0), -1) for limb in (high, low)]
        return _value(*sums) >= goal

    far = jax.lax.cond(jnp.any(beyond), lambda: _largest_threshold(keys, enough), lambda: near)
    return jnp.where(cut, jnp.where(beyond, far, near), 0)


def _draw(weights: Array, rows: SamplingRows, step: Array) -> Array:
    """Returns the first token whose running sum of weights exceeds a random share of it."""
    weights = jnp.pad(weights, ((0, 0), (0, -weights.shape[-1] % _BLOCK)))
    high, low = _limbs(weights.reshape(weights.shape[0], -1, _BLOCK))
    # First the block, then the token in it.
    ends = _running(jnp.sum(high, -1), jnp.sum(low, -1))
    total = _value(*[end[:, -1] for end in ends])
    goal = jax.vmap(_uniform)(rows.seed, step) * total
    # The product may round up to the total, which no running sum exceeds.
    goal = jnp.minimum(goal, jnp.nextafter(total, jnp.float32(0)))[:, None]
    block = jnp.argmax(_value(*ends) > goal, -1, keepdims=True)
    before = [jnp.take_along_axis(jnp.pad(end, ((0, 0), (1, 0))), block, -1) for end in ends]
    inside = [jnp.take_along_axis(limb, block[..., None], 1)[:, 0] for limb in (high, low)]
    running = [b + r for b, r in zip(before, _running(*inside), strict=True)]
    token = jnp.argmax(_value(*running) > goal, -1)
    return (block[:, 0] * _BLOCK + token).astype(jnp.int32)


@jax.jit
def greedy_tokens(logits: Array) -> Array:
    """As `jnp.argmax(logits, -1)`, which takes four times longer on a CPU; int32 [B].

    What `sample` gives at temperature 0; by itself it compiles in a tenth of the time.
    """
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    best = logits == jnp.max(logits, -1, keepdims=True)
    return jnp.min(jnp.where(best, ids, logits.shape[-1] - 1), -1)


def _uniform(seed: Array, step: Array) -> Array:
    """Returns a float32 in [0, 1), a multiple of 2**-24, from seed and step alone."""
    key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), step)
    bits = jax.random.bits(key, (), jnp.uint32)
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _weights(logits: Array, temperature: Array) -> Array:
    """Returns ``rint(2**26 * exp((logits - best) / temperature))``, uint32.

    Not by `jnp.exp`: XLA compiles that to other last bits for other batch sizes (seen
    on CPU). Here no float operation can be done in two ways: one subtraction, one
    product, then a power of two from two tables, whose product is rounded once.
    """
    best = jnp.max(logits, -1, keepdims=True)
    # log2(e) in units of 2**-26; a tiny temperature must not make it infinite (0 * inf).
    rate = jnp.float32(_ONE / math.log(2)) / jnp.where(temperature > 0, temperature, 1)
    rate = jnp.minimum(rate, jnp.finfo(jnp.float32).max)[:, None]
    power = jnp.rint(jnp.minimum((best - logits) * rate, 28.0 * _ONE)).astype(jnp.int32)
    whole, fraction = power >> (2 * _LIMB), power & (_ONE - 1)
    coarse, fine = jnp.asarray(_COARSE)[fraction >> _LIMB], jnp.asarray(_FINE)[fraction & _LOW]
    # 2.0 ** (26 - whole), written as bits: exact, as is the product with it.
    scale = jax.lax.bitcast_convert_type((127 + 2 * _LIMB - whole) << 23, jnp.float32)
    return jnp.rint(coarse * fine * scale).astype(jnp.uint32)


def _order_keys(logits: Array) -> Array:
    """Returns uint32 that compare as the floats do (and -0 equal to 0)."""
    bits = jax.lax.bitcast_convert_type(jnp.where(logits == 0, 0.0, logits), jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(1 << 31))


def _largest_threshold(keys: Array, enough) -> Array:
    """Returns the largest t, uint32 [B], for which `enough(keys >= t)` holds.

    Bisection over the 32 bits: 32 passes of compare and add, where sorting 128k
    logits takes several times longer.
    """

    def set_bit(n, least):
        candidate = least | (jnp.uint32(1 << 31) >> n.astype(jnp.uint32))
        return jnp.where(enough(keys >= candidate[:, None]), candidate, least)

    return jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(keys.shape[:1], jnp.uint32))


def _limbs(weights: Array) -> tuple[Array, Array]:
    return weights >> _LIMB, weights & _LOW


def _running(high: Array, low: Array) -> Array:
    # One scan for both: each costs 0.1 s of compilation.
    return jnp.cumsum(jnp.stack([high, low]), axis=-1)


def _value(high: Array, low: Array) -> Array:
    """Returns float32(high * 2**13 + low), never falling where the pair rises.

    The carry is moved first, so both conversions are monotone; the product is
    exact, so a fused multiply-add gives the same bits.
    """
    high, low = high + (low >> _LIMB), low & _LOW
    return high.astype(jnp.float32) * 2.0**_LIMB + low.astype(jnp.float32)
