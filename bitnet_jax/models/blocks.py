"""Flax NNX blocks of a pre-norm decoder; every weight is [out, in].

The linears here are plain float products: ternarization is a transform over the
function, never a layer. Attributes are named so that a parameter's path is its
canonical name (the trailing ``weight`` left out).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.ops.attention import attention
from bitnet_jax.ops.cache_write import cache_write
from bitnet_jax.ops.gated_activation import gated_activation
from bitnet_jax.ops.rms_norm import rms_norm
from bitnet_jax.ops.rotary import rotary

# Standard deviations at the start, times the square root of the inputs. Measured on the
# quickstart's model (120 steps: held-out loss 4.96 against 5.29 with 0.02 everywhere): what
# matters is that the matrices writing to the residual stream begin near zero.
MATRIX_GAIN = 0.8
OUTPUT_GAIN = 0.05
EMBEDDING_GAIN = 1.6


class Start:
    """What parameters hold at the start: here nothing but a shape, for who only wants names."""

    def matrix(self, outputs: int, inputs: int, gain: float) -> Any:
        """A weight [out, in]."""
        return jax.ShapeDtypeStruct((outputs, inputs), jnp.float32)

    def ones(self, size: int) -> Any:
        """The weight of a norm."""
        return jax.ShapeDtypeStruct((size,), jnp.float32)


class Drawn(Start):
    """Values: normal with standard deviation gain / sqrt(inputs), and ones."""

    def __init__(self, seed: int):
        self._rngs = nnx.Rngs(seed)

    def matrix(self, outputs: int, inputs: int, gain: float) -> Any:
        std = gain / math.sqrt(inputs)
        return std * jax.random.normal(self._rngs.params(), (outputs, inputs), jnp.float32)

    def ones(self, size: int) -> Any:
        return jnp.ones(size, jnp.float32)


class Linear(nnx.Module):
    """``x @ weight.T``, no bias."""

    def __init__(self, inputs: int, outputs: int, start: Start, gain: float = MATRIX_GAIN):
        self.weight = nnx.Param(start.matrix(outputs, inputs, gain))

    def __call__(self, x: Any) -> Any:
        """[..., in] to [..., out]."""
        dims = (((x.ndim - 1,), (1,)), ((), ()))
        # Profile `exact` wants float32 products; it says nothing of ternary ones, exact anyway.
        return lax.dot_general(x, self.weight[...], dims, precision=lax.Precision.HIGHEST)


class RMSNorm(nnx.Module):
    """RMSNorm with a learned weight."""

    def __init__(self, size: int, eps: float, start: Start):
        self.weight = nnx.Param(start.ones(size))
        self.eps = eps

    def __call__(self, x: Any) -> Any:
        """Keeps `x`'s shape and dtype."""
        return rms_norm(x, self.weight[...], eps=self.eps)


class Embedding(nnx.Module):
    """A table looked up by token, and multiplied where it is the head too."""

    def __init__(self, vocab: int, size: int, start: Start):
        self.weight = nnx.Param(start.matrix(vocab, size, EMBEDDING_GAIN))

    def __call__(self, tokens: Any) -> Any:
        """int [...] to [..., size]; ids are checked before they come here."""
        return jnp.take(self.weight[...], tokens, axis=0, mode="clip")

    def head(self, x: Any) -> Any:
        """[..., size] to [..., vocab]."""
        dims = (((x.ndim - 1,), (1,)), ((), ()))
        return lax.dot_general(x, self.weight[...], dims, precision=lax.Precision.HIGHEST)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions and, by spec, a sub-norm before `o_proj`."""

    def __init__(self, spec: ModelSpec, start: Start):
        queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.q_proj = Linear(spec.hidden_size, queries, start)
        self.k_proj = Linear(spec.hidden_size, keys, start)
        self.v_proj = Linear(spec.hidden_size, keys, start)
        self.o_proj = Linear(queries, spec.hidden_size, start, OUTPUT_GAIN)
        if spec.sub_norms:
            self.attn_sub_norm = RMSNorm(queries, spec.rms_norm_eps, start)
        self.spec = spec

    def __call__(self, x: Any, positions: Any, layer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """[batch, length, hidden] to the same, and the layer's keys and values."""
        spec = self.spec
        split = (*x.shape[:2], -1, spec.head_dim)
        q = rotary(self.q_proj(x).reshape(split), positions, theta=spec.rope_theta)
        k = rotary(self.k_proj(x).reshape(split), positions, theta=spec.rope_theta)
        v = self.v_proj(x).reshape(split)
        if layer is not None:
            k = cache_write(layer[0], k, positions)
            v = cache_write(layer[1], v, positions)
        y = attention(q, k, v, positions).reshape(*x.shape[:2], -1)
        if spec.sub_norms:
            y = self.attn_sub_norm(y)
        return self.o_proj(y), (k, v)


class FeedForward(nnx.Module):
    """The gated feed-forward with, by spec, a sub-norm before `down_proj`."""

    def __init__(self, spec: ModelSpec, start: Start):
        self.gate_proj = Linear(spec.hidden_size, spec.intermediate_size, start)
        self.up_proj = Linear(spec.hidden_size, spec.intermediate_size, start)
        self.down_proj = Linear(spec.intermediate_size, spec.hidden_size, start, OUTPUT_GAIN)
        if spec.sub_norms:
            self.ffn_sub_norm = RMSNorm(spec.intermediate_size, spec.rms_norm_eps, start)
        self.spec = spec

    def __call__(self, x: Any) -> Any:
        """[batch, length, hidden] to the same."""
        y = gated_activation(self.gate_proj(x), self.up_proj(x), kind=self.spec.activation)
        if self.spec.sub_norms:
            y = self.ffn_sub_norm(y)
        return self.down_proj(y)


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, spec: ModelSpec, start: Start):
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, start)
        self.self_attn = Attention(spec, start)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, start)
        self.mlp = FeedForward(spec, start)

    def __call__(self, x: Any, positions: Any, layer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """[batch, length, hidden] to the same, and the layer's keys and values."""
        y, layer = self.self_attn(self.input_layernorm(x), positions, layer)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), layer


class Decoder(nnx.Module):
    """Embedding, layers, final norm, head. `spec` says the rest.

    Weights start as `Drawn` says, see `MATRIX_GAIN`.
    """

    def __init__(self, spec: ModelSpec, start: Start):
        self.embed_tokens = Embedding(spec.vocab_size, spec.hidden_size, start)
        self.layers = nnx.List(Block(spec, start) for _ in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, start)
        if not spec.tie_embeddings:
            self.lm_head = Linear(spec.hidden_size, spec.vocab_size, start)
        self.tied = spec.tie_embeddings

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
        layers = []
        for index, block in enumerate(self.layers):
            layer = None if cache is None else (cache.keys[index], cache.values[index])
            x, layer = block(x, positions, layer)
            layers.append(layer)
        if last is not None:
            x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        x = self.norm(x)
        return (self.embed_tokens.head(x) if self.tied else self.lm_head(x)), layers
