"""`Family`: what a kind of decoder must give, to convert, train and run like a built-in one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.blocks import Decoder
from bitnet_jax.models.cache import KVCache
from bitnet_jax.quant.rules import Rule

Params = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One row of the families table.

    Attributes:
      name: the key, as in `ModelSpec.family`.
      rules: which parameters are ternary.
      forward: spec -> ``fn(params, tokens) -> logits`` [batch, length, vocab].
      step: spec -> ``fn(params, tokens, cache, start, last) -> (logits, cache)``:
        `tokens` [batch, length] at positions from `start` [batch] on, logits
        [batch, vocab] of index `last` [batch].
      init: ``(spec, seed) -> params``: fresh float32 parameters.

    Names and shapes stand in `names.py`, one table per family.
    """

    name: str
    rules: tuple[Rule, ...]
    forward: Callable[[ModelSpec], Callable[..., Any]]
    step: Callable[[ModelSpec], Callable[..., Any]]
    init: Callable[[ModelSpec, int], Params]


def _names(state: Any) -> dict[str, Any]:
    """NNX state as a flat dict of canonical names."""
    return {
        ".".join(str(part) for part in path).removesuffix(".weight"): value
        for path, value in nnx.to_flat_state(state)
    }


@functools.cache
def _abstract(spec: ModelSpec) -> tuple[Any, Any]:
    model = nnx.eval_shape(lambda: Decoder(spec, nnx.Rngs(0)))
    return nnx.split(model)


def init_decoder(spec: ModelSpec, seed: int) -> Params:
    """Fresh float32 parameters by canonical name."""

    @jax.jit
    def build() -> Params:
        _, state = nnx.split(Decoder(spec, nnx.Rngs(seed)))
        return {name: value[...] for name, value in _names(state).items()}

    return build()


def _merged(spec: ModelSpec) -> Callable[[Params], Decoder]:
    """The module over given parameters; its structure is traced once."""
    graph, state = _abstract(spec)
    paths = [path for path, _ in nnx.to_flat_state(state)]
    names = list(_names(state))

    def merge(params: Params) -> Decoder:
        leaves = {path: nnx.Param(params[name]) for path, name in zip(paths, names, strict=True)}
        return nnx.merge(graph, nnx.from_flat_state(leaves))

    return merge


def decoder_forward(spec: ModelSpec) -> Callable[..., Any]:
    """``forward(params, tokens) -> float32 logits`` [batch, length, vocab]."""
    merge = _merged(spec)

    def forward(params: Params, tokens: Any) -> Any:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return merge(params)(tokens, positions)[0]

    return forward


def decoder_step(spec: ModelSpec) -> Callable[..., Any]:
    """``step(params, tokens, cache, start, last) -> (logits, cache)``, see `Family`."""
    merge = _merged(spec)

    def step(
        params: Params, tokens: Any, cache: KVCache, start: Any, last: Any
    ) -> tuple[Any, KVCache]:
        positions = start[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        logits, layers = merge(params)(tokens, positions, cache, last)
        keys, values = zip(*layers, strict=True)
        return logits, KVCache(keys, values)

    return step
