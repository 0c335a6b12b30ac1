"""Step: other activations than 8 bits by absmax for what a weight multiplies.

Source: BitNet a4.8 (Wang et al. 2024, arXiv 2411.04965); the rows that exist stand in
`quant/activations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.ir.views import ParamView
from bitnet_jax.ops.weight_note import weight_note
from bitnet_jax.passes.plan import Planned
from bitnet_jax.passes.recipe import BaseStep
from bitnet_jax.quant.activations import Activation
from bitnet_jax.quant.notes import Activations


@dataclass(frozen=True)
class QuantizedActivations(BaseStep):
    """Adds no parameter; the float function stays as it is, the quantized one changes.

    Attributes:
      bits, statistic: a row of `quant.activations.ACTIVATIONS`.
    """

    bits: int = 4
    statistic: str = "absmean"

    def __post_init__(self) -> None:
        Activation(self.bits, self.statistic)  # raises for a row that there is not

    def enter(self, view: ParamView, own: Mapping[str, Any], planned: Planned) -> Any:
        """The weight with its activations noted."""
        return weight_note(view.value, note=Activations(Activation(self.bits, self.statistic)))
