"""A family's decoder as a Program with its KV cache as inputs and results.

Batch, length and what stands in the cache are sizes that are known as it runs. Rows of a batch may
be of different lengths, padded on either side: a mask says which tokens are padding. Knows no ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.program import Program, trace
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import family_for
from bitnet_jax.passes.packed import Packed

Pairs = list[tuple[Any, Any]]


def step_function(spec: ModelSpec) -> Callable[..., tuple[Any, Pairs]]:
    """``step(params, tokens, mask, positions, past) -> (logits, present)``.

    `past` and `present` are a pair (key, value) a layer, [batch, kv_heads, entries, head_dim];
    `present` has as many entries more as there are tokens. Logits are those of every position.
    `mask`, [batch, entries of present], is 0 where padding stands, and 1 elsewhere; `positions`
    count a row's tokens without it, those of padding are not looked at. In one call a row has its
    padding on one side, or on both, never between its tokens.

    Raises:
      UsageError: the family has a cache of its own (``export.cache``).
    """
    function = _cached_function(spec)

    def step(params: Any, tokens: Any, mask: Any, positions: Any, past: Pairs) -> tuple[Any, Pairs]:
        def grown(entries: Any) -> Any:
            batch, heads, _, width = entries.shape
            room = jnp.zeros((batch, heads, tokens.shape[1], width), entries.dtype)
            return _turned(jnp.concatenate([entries, room], axis=2))

        keys, values = zip(*past, strict=True)
        cache = KVCache(tuple(map(grown, keys)), tuple(map(grown, values)))
        shift, placed = _unpadded(mask, positions)
        logits, cache = function(params, _moved(tokens, shift), placed, cache, None)
        pairs = zip(map(_turned, cache.keys), map(_turned, cache.values), strict=True)
        return _moved(logits, -shift), list(pairs)

    return step


def in_place_function(spec: ModelSpec) -> Callable[..., tuple[Any, Pairs]]:
    """``step(params, tokens, positions, cache) -> (logits, cache)``, the cache of a fixed capacity.

    `cache` is a pair (keys, values) a layer, [batch, capacity, kv_heads, head_dim], written at the
    tokens' positions. Logits are those of every position.

    Raises:
      UsageError: as `step_function`.
    """
    function = _cached_function(spec)

    def step(params: Any, tokens: Any, positions: Any, cache: Pairs) -> tuple[Any, Pairs]:
        keys, values = zip(*cache, strict=True)
        logits, after = function(params, tokens, positions, KVCache(keys, values), None)
        return logits, list(zip(after.keys, after.values, strict=True))

    return step


def _cached_function(spec: ModelSpec) -> Callable[..., Any]:
    family = family_for(spec)
    if family.cache != KVCache.empty:
        raise UsageError(
            "export.cache",
            f"family `{family.name}` has a cache of its own, which has no form in what is exported",
            "export its forward function: bj.export_onnx(family.forward(spec), params, tokens)",
        )
    return family.function(spec)


def _unpadded(mask: Any, positions: Any) -> tuple[Any, Any]:
    """How far the columns of a row go to the left, so that its tokens stand before its padding.

    A row's tokens are then one run from its first position on, as the cache is written, and padding
    takes the entries behind them: no query of theirs sees those, and the tokens that come to these
    positions overwrite them. So a row computes what it computes alone.

    Args:
      mask: int32 [batch, entries], of all tokens so far, these last.
      positions: int32 [batch, length].

    Returns:
      The shift, int32 [batch, 1], and the positions of the moved columns, int32 [batch, length].
    """
    length = positions.shape[1]
    past = mask.shape[1] - length
    is_token = mask != 0
    before = is_token[:, :past].sum(axis=1, keepdims=True, dtype=jnp.int32)
    own = is_token[:, past:]
    # Of a row that is all padding nothing may be lost: behind its tokens so far.
    first = jnp.where(own, positions, before).min(axis=1, keepdims=True)
    shift = jnp.argmax(own, axis=1, keepdims=True).astype(jnp.int32)
    return shift, first + jnp.arange(length, dtype=jnp.int32)


def _moved(values: Any, shift: Any) -> Any:
    """[batch, length, …], each row's columns turned round by `shift` [batch, 1] to the left."""
    length = values.shape[1]
    index = jnp.arange(length, dtype=jnp.int32) + shift
    index = index - length * (index >= length).astype(jnp.int32)
    index = index + length * (index < 0).astype(jnp.int32)
    return jax.vmap(lambda row, at: jnp.take(row, at, axis=0, mode="clip"))(values, index)


def _turned(entries: Any) -> Any:
    """[batch, entries, heads, width] from [batch, heads, entries, width], and back."""
    return jnp.transpose(entries, (0, 2, 1, 3))


def trace_step(
    spec: ModelSpec, packed: Packed, sizes: tuple[Any, Any, Any] | None = None
) -> Program:
    """Traces the step.

    Args:
      packed: its parameters, whose leaves may be abstract.
      sizes: batch, length and entries of the past; symbols if None.
    """
    batch, length, past = sizes or export.symbolic_shape(
        "batch, sequence, past", constraints=["batch >= 1", "sequence >= 1", "past >= 0"]
    )
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    shape = (batch, spec.num_kv_heads, past, spec.head_dim)
    entries = jax.ShapeDtypeStruct(shape, jnp.float32)
    pairs = [(entries, entries)] * spec.num_layers
    mask = jax.ShapeDtypeStruct((batch, past + length), jnp.int32)
    return trace(step_function(spec), packed.float_avals(), ids, mask, ids, pairs)


def past_names(spec: ModelSpec) -> list[str]:
    """The names of the cache's inputs, in order."""
    return [f"past_key_values.{n}.{part}" for n in range(spec.num_layers) for part in _PARTS]


def present_names(spec: ModelSpec) -> list[str]:
    """The names of the cache's results, in order."""
    return [f"present.{n}.{part}" for n in range(spec.num_layers) for part in _PARTS]


_PARTS = ("key", "value")
