"""Flax NNX parts of a decoder: what its parameters hold at the start, linears, norms, tables.

Every weight is [out, in]. The linears here are plain float products: ternarization is a
transform over the function, never a layer. Knows no spec.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bitnet_jax.ops.dense_matmul import dense_matmul
from bitnet_jax.ops.rms_norm import rms_norm

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

    def zeros(self, size: int) -> Any:
        """A bias."""
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

    def zeros(self, size: int) -> Any:
        return jnp.zeros(size, jnp.float32)


class RMSNorm(nnx.Module):
    """RMSNorm with a learned weight, which by choice stands for itself and an offset (Gemma: 1)."""

    def __init__(self, size: int, eps: float, start: Start, offset: float = 0.0):
        self.weight = nnx.Param(start.zeros(size) if offset else start.ones(size))
        self.eps, self.offset = eps, offset

    def __call__(self, x: Any) -> Any:
        """Keeps `x`'s shape and dtype."""
        weight = self.weight[...]
        return rms_norm(x, weight + self.offset if self.offset else weight, eps=self.eps)


class LayerNorm(nnx.Module):
    """LayerNorm with a weight and a bias: the RMSNorm of what differs from the mean."""

    def __init__(self, size: int, eps: float, start: Start):
        self.weight = nnx.Param(start.ones(size))
        self.bias = nnx.Param(start.zeros(size))
        self.eps = eps

    def __call__(self, x: Any) -> Any:
        """Keeps `x`'s shape and dtype."""
        # Not `jnp.mean`: the order of XLA's sum, and so a row's bits, depend on the other rows.
        size = x.shape[-1]
        total = dense_matmul(x.astype(jnp.float32), jnp.ones((1, size), jnp.float32))
        away = x - (total / size).astype(x.dtype)
        return rms_norm(away, self.weight[...], eps=self.eps) + self.bias[...]


class Linear(nnx.Module):
    """``x @ weight.T``, by choice with a norm of its own before it and a bias after."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        start: Start,
        gain: float = MATRIX_GAIN,
        *,
        bias: bool = False,
        norm_eps: float = 0.0,
    ):
        self.weight = nnx.Param(start.matrix(outputs, inputs, gain))
        if bias:
            self.bias = nnx.Param(start.zeros(outputs))
        if norm_eps:
            self.rms_norm = RMSNorm(inputs, norm_eps, start)
        self.has_bias, self.has_norm = bias, norm_eps > 0

    def __call__(self, x: Any) -> Any:
        """[..., in] to [..., out]."""
        if self.has_norm:
            x = self.rms_norm(x)
        dims = (((x.ndim - 1,), (1,)), ((), ()))
        # Profile `exact` wants float32 products; it says nothing of ternary ones, exact anyway.
        y = lax.dot_general(x, self.weight[...], dims, precision=lax.Precision.HIGHEST)
        return y + self.bias[...] if self.has_bias else y


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
