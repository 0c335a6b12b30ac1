"""What each step is told: learning rate, weight decay and λ, as functions of its number.

Pure Python on numbers: a run is reproducible given its `Plan`, whatever the clock
said when the plan was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bitnet_jax.train.config import Stage, TrainConfig


class Controls(NamedTuple):
    """Scalars of one step: factors of the peak rates, decay, λ."""

    learning_rate: float
    weight_decay: float
    lam: float


@dataclass(frozen=True)
class Plan:
    """How many steps a run has, as it was decided and, if it was, decided anew.

    Attributes:
      changes: (step, total): from `step` on the run was meant to have `total` steps.
        The first has step 0. Progress goes linearly to 1 from where a change found it,
        so that the rate never jumps.
    """

    changes: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.changes[-1][1]

    def changed(self, step: int, total: int) -> Plan:
        """Returns the plan with `total` steps from `step` on."""
        return Plan((*self.changes, (step, total)))

    def progress(self, step: int, warmup: int) -> float:
        """Returns the share of the steps after the warm-up that lie before `step`."""
        at, done = min(warmup, self.changes[0][1]), 0.0
        for index, (_, total) in enumerate(self.changes):
            following = self.changes[index + 1 : index + 2]
            end = min(step, following[0][0]) if following else step
            if end > at:
                done += (1 - done) * (end - at) / max(total - at, 1)
                at = end
        return min(done, 1.0)


def controls(config: TrainConfig, plan: Plan | None, step: int) -> Controls:
    """Returns what step number `step` (from 0) is told.

    Without a plan yet (the step time is still being measured) the run is in its
    warm-up, or at the start of its first stage.
    """
    progress = plan.progress(step, config.warmup_steps) if plan else 0.0
    stage, begin = _stage(config.stages, progress)
    share = (progress - begin) / (stage.until - begin)
    rate = stage.start + (stage.end - stage.start) * share
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    lam = min(1.0, step / config.lambda_steps) if config.lambda_steps else 1.0
    return Controls(rate, stage.weight_decay, lam)


def _stage(stages: tuple[Stage, ...], progress: float) -> tuple[Stage, float]:
    begin = 0.0
    for stage in stages:
        if progress < stage.until:
            return stage, begin
        begin = stage.until
    # progress 1: past the last step
    return stages[-1], stages[-2].until if len(stages) > 1 else 0.0
