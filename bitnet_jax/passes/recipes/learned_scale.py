"""Step: the weight's scale becomes a parameter that is trained.

Source: LSQ (Esser et al. 2020, arXiv 1902.08153), as used for ternary models by ParetoQ
(Liu et al. 2025). It starts as the scale that the rule would have computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.weight_note import weight_note
from bitnet_jax.passes.geometry import canonical_matrix, source_scale
from bitnet_jax.passes.plan import Planned
from bitnet_jax.passes.recipe import BaseStep
from bitnet_jax.quant.kinds import kind_scale
from bitnet_jax.quant.notes import LearnedScale as Note
from bitnet_jax.quant.rules import Rule


@dataclass(frozen=True)
class LearnedScale(BaseStep):
    """Adds ``<weight>.learned_scale``, float32 [*stack] or [*stack, out].

    Attributes:
      scale: ``tensor`` or ``row``; the rule that ternarizes the weight says the same.
      to: the kind whose scale it starts from.
      stack: as the rule's: axes that hold separate matrices.
    """

    scale: str = "tensor"
    to: str = "ternary"
    stack: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.scale not in ("tensor", "row"):
            raise UsageError(
                "recipe.scale", f"a scale per {self.scale} cannot be learned", "tensor or row"
            )

    @property
    def rule(self) -> Rule:
        """With the step's scale."""
        return Rule(self.path, to=self.to, scale=self.scale, stack=self.stack)

    def added(self, name: str, value: Any, planned: Planned) -> dict[str, Any]:
        """The scale that the rule would compute, before it is rounded."""
        matrix = canonical_matrix(ParamView.of(name, value.shape, value=value), planned.layouts[0])
        return {"learned_scale": kind_scale(matrix, self.to, self.scale, scale_dtype="float32")}

    def enter(self, view: ParamView, own: Mapping[str, Any], planned: Planned) -> Any:
        """The weight with its scale noted."""
        scale = source_scale(own["learned_scale"], view, planned.layouts[0], self.scale)
        note = Note(f"{view.name}.learned_scale", self.scale, planned.stack)
        return weight_note(view.value, scale.astype(jnp.float32), note=note)
