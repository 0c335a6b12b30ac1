"""A run's compiled functions: made before its first step, so that none waits for a compiler.

While λ rises the step takes it as an argument: a schedule recompiles nothing. From the
first step with λ = 1 another step runs, which is told so at trace time: nothing is
blended in it, and what it computes is the packed model. Which of the two a run needs is
the loop's to say; knows no schedule, file or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.compiler.compile import compile_ahead
from bitnet_jax.train.config import TrainConfig
from bitnet_jax.train.schedule import Controls
from bitnet_jax.train.step import (
    ModelFn,
    TrainState,
    make_train_step,
    make_window_losses,
    mean_loss,
)

RISING, EXACT, EVALUATION = "rising", "exact", "evaluation"

LABELS = {
    RISING: "the step while λ rises",
    EXACT: "the step at λ = 1",
    EVALUATION: "the evaluation",
}


@dataclass(frozen=True)
class Programs:
    """What one run calls, by name; each compiled for the one shape that it is called with."""

    compiled: dict[str, Any]

    def step(
        self, state: TrainState, windows: np.ndarray, controls: Controls
    ) -> tuple[TrainState, dict[str, Any]]:
        """As the step that `controls.lam` asks for; it consumes (donates) `state`."""
        run = self.compiled[EXACT if controls.lam == 1 else RISING]
        # Strongly typed: Python's numbers would be of another type than was compiled for.
        scalars: Any = [np.float32(value) for value in controls]
        return run(state, windows, Controls(*scalars))

    def evaluate(self, params: Any, windows: np.ndarray, batch: int) -> float:
        """Mean nats per token of int32 `windows` [n, length + 1] at λ = 1."""
        return mean_loss(self.compiled[EVALUATION], params, windows, batch)


def needed(lambda_steps: int, first: int, total: int | None) -> Iterator[str]:
    """Yields the names of the programs that the steps from `first` to `total` call.

    Args:
      lambda_steps: the first step with λ = 1.
      total: None where the number of steps may still change.
    """
    if first < lambda_steps and (total is None or first < total):
        yield RISING
    if total is None or max(first, lambda_steps) < total:
        yield EXACT
    yield EVALUATION


def compile_programs(
    model_fn: ModelFn,
    config: TrainConfig,
    state: TrainState,
    windows: int,
    names: Iterable[str],
    timed: Callable[[str], AbstractContextManager[None]],
) -> Programs:
    """Compiles the programs `names` for the shapes of `state` and of the recipe's batches.

    One after the other: XLA's CPU compiler keeps two cores busy with one program (both
    steps of quickstart's model: 7.3 to 7.9 s in turn, 7.0 to 7.8 s in two threads).

    Args:
      windows: how many held-out windows there are.
      timed: entered around each compilation, with its name.

    Raises:
      Unavailable: memory does not suffice (``compile.memory``).
    """
    scalar: Any = jax.ShapeDtypeStruct((), jnp.float32)
    scalars = Controls(scalar, scalar, scalar)
    evaluated = min(config.batch, windows)

    def step(traced_lambda: bool) -> Any:
        jitted = make_train_step(model_fn, config.optimizer, traced_lambda=traced_lambda)
        return compile_ahead(jitted, state, _windows(config.batch, config), scalars)

    makers: dict[str, Callable[[], Any]] = {
        RISING: lambda: step(traced_lambda=True),
        EXACT: lambda: step(traced_lambda=False),
        EVALUATION: lambda: compile_ahead(
            make_window_losses(model_fn), state.params, _windows(evaluated, config)
        ),
    }
    compiled = {}
    for name in names:
        with timed(name):
            compiled[name] = makers[name]()
    return Programs(compiled)


def _windows(batch: int, config: TrainConfig) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, config.length + 1), jnp.int32)
