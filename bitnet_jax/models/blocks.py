"""Flax NNX blocks of a pre-norm decoder, as a `Design` says; every weight is [out, in].

Attributes are named so that a parameter's path is its canonical name (the trailing
``weight`` left out).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.layers import OUTPUT_GAIN, Embedding, LayerNorm, Linear, RMSNorm, Start
from bitnet_jax.ops.attention import attention
from bitnet_jax.ops.cache_write import cache_write
from bitnet_jax.ops.gated_activation import gated_activation
from bitnet_jax.ops.gated_activation.reference import GATES
from bitnet_jax.ops.rotary import rotary


def turned(x: Any, positions: Any, layer: Layer) -> Any:
    """Queries or keys [batch, length, heads, head_dim], rotated as the layer has it."""
    if layer.rotated == 0:
        return x
    if layer.rotated is None or layer.rotated == x.shape[-1]:
        return rotary(x, positions, theta=layer.theta, scaling=layer.scaling)
    first, rest = x[..., : layer.rotated], x[..., layer.rotated :]
    first = rotary(first, positions, theta=layer.theta, scaling=layer.scaling)
    return jnp.concatenate([first, rest], axis=-1)


def norm_of(spec: ModelSpec, design: Design, size: int, start: Start) -> Any:
    """The design's norm over `size` elements."""
    if design.layer_norm:
        return LayerNorm(size, spec.rms_norm_eps, start)
    return RMSNorm(size, spec.rms_norm_eps, start, design.norm_offset)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions and, by spec, a sub-norm before `o_proj`."""

    def __init__(self, spec: ModelSpec, design: Design, index: int, start: Start):
        queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        inner: dict[str, Any] = {"bias": design.qkv_bias, "norm_eps": design.linear_norm_eps}
        outer = inner | {"bias": design.out_bias}
        self.q_proj = Linear(spec.hidden_size, queries, start, **inner)
        self.k_proj = Linear(spec.hidden_size, keys, start, **inner)
        self.v_proj = Linear(spec.hidden_size, keys, start, **inner)
        self.o_proj = Linear(queries, spec.hidden_size, start, OUTPUT_GAIN, **outer)
        if spec.sub_norms:
            self.attn_sub_norm = RMSNorm(queries, spec.rms_norm_eps, start)
        if design.qk_norm:
            self.q_norm = norm_of(spec, design, spec.head_dim, start)
            self.k_norm = norm_of(spec, design, spec.head_dim, start)
        self.spec, self.design, self.layer = spec, design, design.layer(index)

    def __call__(self, x: Any, positions: Any, layer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """[batch, length, hidden] to the same, and the layer's keys and values."""
        spec = self.spec
        split = (*x.shape[:2], -1, spec.head_dim)
        q = self.q_proj(x).reshape(split)
        if self.design.qk_norm:
            q = self.q_norm(q)
        if self.design.query_scale != 1:
            q = q * jnp.float32(self.design.query_scale)
        q = turned(q, positions, self.layer)
        k = self.k_proj(x).reshape(split)
        k = turned(self.k_norm(k) if self.design.qk_norm else k, positions, self.layer)
        v = self.v_proj(x).reshape(split)
        if layer is not None:
            k = cache_write(layer[0], k, positions)
            v = cache_write(layer[1], v, positions)
        y = attention(q, k, v, positions, window=self.layer.window)
        y = y.reshape(*x.shape[:2], -1)
        if spec.sub_norms:
            y = self.attn_sub_norm(y)
        return self.o_proj(y), (k, v)


class FeedForward(nnx.Module):
    """The feed-forward, gated by design, with a sub-norm before `down_proj` by spec."""

    def __init__(self, spec: ModelSpec, design: Design, start: Start):
        width, inner = spec.hidden_size, spec.intermediate_size
        kind: dict[str, Any] = {"bias": design.mlp_bias, "norm_eps": design.linear_norm_eps}
        if design.gated:
            self.gate_proj = Linear(width, inner, start, **kind)
        self.up_proj = Linear(width, inner, start, **kind)
        self.down_proj = Linear(inner, width, start, OUTPUT_GAIN, **kind)
        if spec.sub_norms:
            self.ffn_sub_norm = RMSNorm(spec.intermediate_size, spec.rms_norm_eps, start)
        self.spec, self.design = spec, design

    def __call__(self, x: Any) -> Any:
        """[batch, length, hidden] to the same."""
        if self.design.gated:
            y = gated_activation(self.gate_proj(x), self.up_proj(x), kind=self.spec.activation)
        else:
            y = GATES[self.spec.activation](self.up_proj(x))
        if self.spec.sub_norms:
            y = self.ffn_sub_norm(y)
        return self.down_proj(y)


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, spec: ModelSpec, design: Design, index: int, start: Start):
        size = spec.hidden_size
        self.input_layernorm = norm_of(spec, design, size, start)
        self.self_attn = Attention(spec, design, index, start)
        self.post_attention_layernorm = norm_of(spec, design, size, start)
        self.mlp = FeedForward(spec, design, start)

    def __call__(self, x: Any, positions: Any, layer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """[batch, length, hidden] to the same, and the layer's keys and values."""
        y, layer = self.self_attn(self.input_layernorm(x), positions, layer)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), layer


class SandwichBlock(Block):
    """A layer with norms on both sides of attention and feed-forward (`Design.sandwich`)."""

    def __init__(self, spec: ModelSpec, design: Design, index: int, start: Start):
        super().__init__(spec, design, index, start)
        self.pre_feedforward_layernorm = norm_of(spec, design, spec.hidden_size, start)
        self.post_feedforward_layernorm = norm_of(spec, design, spec.hidden_size, start)

    def __call__(self, x: Any, positions: Any, layer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        y, layer = self.self_attn(self.input_layernorm(x), positions, layer)
        x = x + self.post_attention_layernorm(y)
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.post_feedforward_layernorm(y), layer


class ParallelBlock(nnx.Module):
    """A layer whose attention and feed-forward read one norm (`Design.parallel`)."""

    def __init__(self, spec: ModelSpec, design: Design, index: int, start: Start):
        self.input_layernorm = norm_of(spec, design, spec.hidden_size, start)
        self.self_attn = Attention(spec, design, index, start)
        self.mlp = FeedForward(spec, design, start)

    def __call__(self, x: Any, positions: Any, layer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """[batch, length, hidden] to the same, and the layer's keys and values."""
        normed = self.input_layernorm(x)
        y, layer = self.self_attn(normed, positions, layer)
        return y + self.mlp(normed) + x, layer


def block_of(design: Design) -> Any:
    """The class of the design's layers."""
    if design.parallel:
        return ParallelBlock
    return SandwichBlock if design.sandwich else Block


class Decoder(nnx.Module):
    """Embedding, layers, final norm, head. `spec` and `design` say the rest.

    Weights start as `Drawn` says, see `layers.MATRIX_GAIN`.
    """

    def __init__(self, spec: ModelSpec, design: Design, start: Start):
        self.embed_tokens = Embedding(spec.vocab_size, spec.hidden_size, start)
        block = block_of(design)
        self.layers = nnx.List(block(spec, design, n, start) for n in range(spec.num_layers))
        self.norm = norm_of(spec, design, spec.hidden_size, start)
        if not spec.tie_embeddings:
            self.lm_head = Linear(spec.hidden_size, spec.vocab_size, start, bias=design.head_bias)
        self.tied, self.embedding_scale = spec.tie_embeddings, design.embedding_scale

    def __call__(
        self, tokens: Any, positions: Any, cache: Any = None, last: Any = None
    ) -> tuple[Any, list[tuple[Any, Any]]]:
        """Runs the decoder.

        Args:
          tokens: int [batch, length].
          positions: int32 [batch, length], ascending by one along a row.
          cache: `KVCache`, or None to attend among `tokens` alone.
          last: int32 [batch], the index whose logits are wanted, or None for all.

        Returns:
          float32 logits [batch, length, vocab] ([batch, vocab] with `last`), and each
          layer's keys and values.
        """
        x = self.embed_tokens(tokens).astype(jnp.float32)
        if self.embedding_scale != 1:
            x = x * jnp.float32(self.embedding_scale)
        layers = []
        for index, block in enumerate(self.layers):
            layer = None if cache is None else (cache.keys[index], cache.values[index])
            x, layer = block(x, positions, layer)
            layers.append(layer)
        if last is not None:
            x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        x = self.norm(x)
        return (self.embed_tokens.head(x) if self.tied else self.lm_head(x)), layers
