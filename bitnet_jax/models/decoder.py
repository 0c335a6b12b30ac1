"""The built-in decoder (`blocks.py`) as a family's functions over flat parameters.

Knows flax, and nothing of names tables or families.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.blocks import Decoder
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.design import Design
from bitnet_jax.models.layers import Drawn, Start

Params = dict[str, Any]


def _names(state: Any) -> dict[str, Any]:
    """NNX state as a flat dict of canonical names."""
    return {
        ".".join(str(part) for part in path).removesuffix(".weight"): value
        for path, value in nnx.to_flat_state(state)
    }


@functools.cache
def _abstract(spec: ModelSpec, design: Design) -> tuple[Any, Any]:
    # Not `nnx.eval_shape`: it traces every random draw, two seconds for thirty layers.
    return nnx.split(Decoder(spec, design, Start()))


def init_decoder(spec: ModelSpec, design: Design, seed: int) -> Params:
    """Fresh float32 parameters by canonical name."""

    @jax.jit
    def build() -> Params:
        _, state = nnx.split(Decoder(spec, design, Drawn(seed)))
        return {name: value[...] for name, value in _names(state).items()}

    return build()


def decoder_function(spec: ModelSpec, design: Design) -> Callable[..., tuple[Any, KVCache]]:
    """``fn(params, tokens, positions, cache, last) -> (logits, cache)``, see `Family.function`."""
    graph, state = _abstract(spec, design)  # the module's structure is traced once
    paths = [path for path, _ in nnx.to_flat_state(state)]
    names = list(_names(state))

    def function(
        params: Params, tokens: Any, positions: Any, cache: KVCache | None, last: Any
    ) -> tuple[Any, KVCache]:
        leaves = {path: nnx.Param(params[name]) for path, name in zip(paths, names, strict=True)}
        model = nnx.merge(graph, nnx.from_flat_state(leaves))
        logits, layers = model(tokens, positions, cache, last)
        keys, values = zip(*layers, strict=True)
        return logits, KVCache(keys, values)

    return function
