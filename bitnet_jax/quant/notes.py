"""What a recipe asks of a weight beside its rule: plain data that travels with it.

A note says how the quantized product differs; what it means in the float function is
`ops/weight_note`'s. Knows nothing of programs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitnet_jax.quant.activations import DEFAULT, Activation
from bitnet_jax.quant.guards import round_scale


@dataclass(frozen=True)
class LearnedScale:
    """The scale is a parameter: it is trained, not computed (LSQ, Esser et al. 2020).

    Attributes:
      parameter: its name; shaped as a `QuantTensor`'s scale of `scale_kind`.
      stack: axes of the weight whose elements have a scale each.
    """

    parameter: str
    scale_kind: str
    stack: tuple[int, ...]

    @property
    def learns(self) -> bool:
        """A gradient must reach its array."""
        return True

    def companions(self, w: Any, arrays: Sequence[Any]) -> dict[str, Any]:
        """The scale, given beside the weight."""
        return {"scale": arrays[0]}


@dataclass(frozen=True)
class KeepNofM:
    """Of each `m` consecutive inputs the `n` largest weights keep their codes, the rest is 0.

    Attributes:
      order: the weight's axes as [*stack, *out, *in].
      inner: how many of them, at the end, are inputs.
    """

    n: int
    m: int
    order: tuple[int, ...]
    inner: int

    @property
    def learns(self) -> bool:
        """Nothing of it is trained."""
        return False

    def companions(self, w: Any, arrays: Sequence[Any]) -> dict[str, Any]:
        """The mask, computed from the weight."""
        return {"mask": self.mask(w)}

    def mask(self, w: Any) -> Any:
        """True where `w` is kept: bool, in `w`'s own axes."""
        moved = jnp.transpose(lax.stop_gradient(w), self.order)
        lead = moved.shape[: len(self.order) - self.inner]
        kept = n_of_m(moved.reshape(*lead, math.prod(moved.shape[len(lead) :])), self.n, self.m)
        return jnp.transpose(kept.reshape(moved.shape), [int(i) for i in np.argsort(self.order)])


@dataclass(frozen=True)
class Activations:
    """What this weight multiplies is rounded as `activation` says."""

    activation: Activation

    @property
    def learns(self) -> bool:
        """Nothing of it is trained."""
        return False

    def companions(self, w: Any, arrays: Sequence[Any]) -> dict[str, Any]:
        """None."""
        return {}


Note = LearnedScale | KeepNofM | Activations
# The smallest scale that training may reach: what keeps 1/s finite.
SMALLEST = np.float32(2.0**-24)


def find(notes: tuple[Any, ...], kind: type) -> Any:
    """The last note of a kind, or None."""
    return next((note for note in reversed(notes) if isinstance(note, kind)), None)


def activation_of(notes: tuple[Any, ...]) -> Activation:
    """How activations are rounded for a weight with these notes."""
    note = find(notes, Activations)
    return DEFAULT if note is None else note.activation


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def learned_scale(scale: Any, scale_dtype: str) -> Any:
    """A learned scale as it is used: positive, rounded to its dtype; straight-through.

    Args:
      scale: float, any shape.

    Returns:
      float32 of that shape.
    """
    return round_scale(jnp.maximum(jnp.abs(scale.astype(jnp.float32)), SMALLEST), scale_dtype)


@learned_scale.defjvp
def _learned_scale_jvp(scale_dtype: str, primals: Any, tangents: Any) -> Any:
    (scale,), (change,) = primals, tangents
    return learned_scale(scale, scale_dtype), (change * jnp.sign(scale)).astype(jnp.float32)


def n_of_m(matrix: Any, n: int, m: int) -> Any:
    """True where a weight is among the `n` largest of its group: bool [..., out, in].

    Of equal weights the first is kept. Groups are `m` consecutive inputs.
    """
    groups = jnp.abs(matrix).reshape(*matrix.shape[:-1], matrix.shape[-1] // m, m)
    mine, others = groups[..., :, None], groups[..., None, :]
    earlier = np.arange(m)[None, :] < np.arange(m)[:, None]
    rank = ((others > mine) | ((others == mine) & earlier)).sum(-1)
    return (rank < n).reshape(matrix.shape)
