"""Step: N:M sparsity: of each M consecutive inputs the N largest weights are kept.

The mask is computed from the weight at each step and is straight-through: a masked
weight learns on and may come back. Source: Mishra et al. 2021 (arXiv 2104.08378);
Sparse-BitNet (2025) for ternary weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.weight_note import weight_note
from bitnet_jax.passes.plan import Planned
from bitnet_jax.passes.recipe import BaseStep
from bitnet_jax.quant import notes


@dataclass(frozen=True)
class KeepNofM(BaseStep):
    """Adds no parameter; the masked weights count as 0, in the float function too.

    Attributes:
      n, m: of each `m` consecutive inputs, `n` are kept.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise UsageError("recipe.n_of_m", f"keeps {self.n} of {self.m}", "0 < n <= m")

    def added(self, name: str, value: Any, planned: Planned) -> dict[str, Any]:
        """Nothing; here the groups are checked."""
        inputs = math.prod(value.shape[axis] for axis in planned.layouts[0].inner)
        if inputs % self.m or len(planned.layouts) > 1:
            raise UsageError(
                "recipe.n_of_m",
                f"`{name}` has {inputs} inputs, no multiple of {self.m}{planned.use.where}"
                if inputs % self.m
                else f"`{name}` is multiplied over several of its axes{planned.use.where}",
                "choose another m, or leave the weight out",
            )
        return {}

    def enter(self, view: ParamView, own: Mapping[str, Any], planned: Planned) -> Any:
        """The weight, noted."""
        roles = planned.layouts[0]
        note = notes.KeepNofM(self.n, self.m, roles.order, len(roles.inner))
        return weight_note(view.value, note=note)
