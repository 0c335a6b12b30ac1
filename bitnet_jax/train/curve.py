"""The course of a run, short enough to stand in its record: loss, rate and λ by step.

Fed with the lines of ``metrics.jsonl``; that file has every step, this has means of neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_jax.stats.curves import Thinned

# Between 50 and 100 points: as many as a chart can show and a record can carry.
POINTS = 50
_BESIDE = ("learning_rate", "lam", "gradient_norm", "tokens_per_second")


class Curve:
    """What has been logged so far."""

    def __init__(self) -> None:
        self.steps, self.heldout = Thinned(POINTS), Thinned(POINTS)

    def take(self, line: Mapping[str, Any]) -> None:
        """Takes one line of the metrics; those without a loss are about something else."""
        if "heldout_loss" in line:
            self.heldout.add(line["step"], line["heldout_loss"])
        elif "loss" in line:
            beside = {name: line[name] for name in _BESIDE if name in line}
            self.steps.add(line["step"], line["loss"], **beside)

    def take_file(self, metrics: Path) -> None:
        """Takes what a run that goes on has logged before."""
        if metrics.exists():
            for line in metrics.read_text(encoding="utf-8").splitlines():
                self.take(json.loads(line))

    def record(self) -> dict[str, Any]:
        """Returns ``curve`` and ``heldout_curve``: rows up to and including their `step`."""
        return {
            "curve": [
                {
                    "step": s.last,
                    "loss": s.mean,
                    "loss_low": s.low,
                    "loss_high": s.high,
                    **s.beside,
                }
                for s in self.steps.stretches
            ],
            "heldout_curve": [
                {"step": s.last, "heldout_loss": s.mean} for s in self.heldout.stretches
            ],
        }
