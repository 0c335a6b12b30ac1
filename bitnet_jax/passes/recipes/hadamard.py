"""Step: a Hadamard rotation of a weight's inputs, and of what it multiplies.

x·H and W·H with H·Hᵀ = 1 leave the float product as it was, and spread outliers before
rounding. H is block diagonal, of the largest power of two that divides the inputs.
Source: QuaRot (Ashkboos et al. 2024), H-BitLinear of BitNet v2 (Wang et al. 2025,
arXiv 2504.18415).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from bitnet_jax.ir.views import ParamView
from bitnet_jax.passes.geometry import DotGeometry
from bitnet_jax.passes.plan import Plan, Planned
from bitnet_jax.passes.recipe import BaseStep, check_whole


@dataclass(frozen=True)
class Hadamard(BaseStep):
    """Rotates weights once, in `transform`, and activations at each use."""

    def check(self, name: str, plan: Plan) -> None:
        """Its rotation belongs to one product, of all inputs."""
        check_whole(name, plan, "a Hadamard rotation", alone=True)

    def initial(self, value: Any, planned: Planned) -> Any:
        """The weight rotated along its inputs."""
        roles = planned.layouts[0]
        order = roles.order
        inputs = math.prod(value.shape[axis] for axis in roles.inner)
        moved = jnp.transpose(value, order)
        matrix = hadamard(moved.reshape(-1, inputs).astype(jnp.float32))
        return jnp.transpose(
            matrix.reshape(moved.shape), [int(i) for i in np.argsort(order)]
        ).astype(value.dtype)

    def activations(self, view: ParamView, geometry: DotGeometry, x: Any) -> Any:
        """The activations rotated along the contracted axes."""
        inner = geometry.inner_last(x)
        rotated = hadamard(inner.astype(jnp.float32)).astype(x.dtype)
        return geometry.inner_back(rotated, x.shape)


def hadamard(x: Any) -> Any:
    """``x @ H`` along the last axis, by butterflies; H symmetric with H·H = 1.

    Blocks have the largest power of two that divides the axis.
    """
    size = x.shape[-1]
    block = size & -size
    out = x
    step = 1
    while step < block:
        pairs = out.reshape(*x.shape[:-1], size // (2 * step), 2, step)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        out = jnp.stack([low + high, low - high], axis=-2).reshape(x.shape)
        step *= 2
    return out * np.float32(1 / math.sqrt(block)) if block > 1 else out
