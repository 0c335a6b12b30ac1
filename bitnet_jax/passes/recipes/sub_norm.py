"""Step: RMSNorm on what a weight multiplies, with a learned gain beside the weight.

Source: BitNet b1.58 2B4T puts one before its output and down projections (Ma et al. 2025,
arXiv 2504.12285); "Extra RMSNorm" (Steinmetz et al. 2025, arXiv 2505.08823) before all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.rms_norm import rms_norm
from bitnet_jax.passes.geometry import DotGeometry, arranged_scale
from bitnet_jax.passes.plan import Plan, Planned
from bitnet_jax.passes.recipe import BaseStep, check_whole


@dataclass(frozen=True)
class SubNorm(BaseStep):
    """Adds ``<weight>.sub_norm`` [*stack, in], ones.

    Attributes:
      eps: of the norm.
    """

    eps: float = 1e-5

    def check(self, name: str, plan: Plan) -> None:
        """A norm is over all inputs."""
        check_whole(name, plan, "a sub-norm", alone=False)

    def added(self, name: str, value: Any, planned: Planned) -> dict[str, Any]:
        """A gain per input."""
        roles = planned.layouts[0]
        lead = [value.shape[axis] for axis in roles.stack]
        inputs = math.prod(value.shape[axis] for axis in roles.inner)
        return {"sub_norm": jnp.ones((*lead, inputs), jnp.float32)}

    def enter(self, view: ParamView, own: Mapping[str, Any], planned: Planned) -> Any:
        """The gain goes with the weight: it is sliced where the weight is."""
        roles = planned.layouts[0]
        kept = [
            size if axis in (*roles.stack, *roles.inner) else 1
            for axis, size in enumerate(view.shape)
        ]
        order = (*roles.stack, *roles.inner)
        gain = own["sub_norm"].reshape([view.shape[axis] for axis in order])
        gain = jnp.transpose(gain, sorted(range(len(order)), key=lambda i: order[i]))
        return view.joined("gain", gain.reshape(kept))

    def activations(self, view: ParamView, geometry: DotGeometry, x: Any) -> Any:
        """RMSNorm over the contracted axes."""
        gain = arranged_scale(view.companion("gain"), view)
        if any(gain.shape[axis] != 1 for axis in geometry.free_w):
            raise UsageError(
                "recipe.sub_norm",
                f"`{view.name}` has a gain per matrix of its stack, and one product gives the "
                "same activations to all of them",
                "leave it out of the recipe, or multiply matrix by matrix",
            )
        inner = geometry.inner_last(x)
        normed = rms_norm(inner, jnp.ones(inner.shape[-1], x.dtype), eps=self.eps)
        return geometry.inner_back(normed, x.shape) * geometry.to_x(gain, x.ndim).astype(x.dtype)
