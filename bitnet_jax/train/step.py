"""The training step: (state, batch, controls) → (state, metrics), pure and jitted.

Takes any ``model_fn(params, tokens, lam) -> logits``; knows no family, file or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitnet_jax.train.config import OptimizerConfig
from bitnet_jax.train.optim import groups, learning_rates, make_optimizer
from bitnet_jax.train.schedule import Controls

ModelFn = Callable[[Any, Any, Any], Any]


class TrainState(NamedTuple):
    """Everything on the device that the next step needs.

    Attributes:
      params: latent float32, by canonical name.
      optimizer: optax's state.
      step: int32, steps done.
    """

    params: dict[str, Any]
    optimizer: Any
    step: Any


def init_state(params: Mapping[str, Any], config: OptimizerConfig) -> TrainState:
    """Returns the state before the first step; float32 copies of `params`."""
    latent = {name: jnp.array(value, jnp.float32) for name, value in params.items()}
    return TrainState(latent, make_optimizer(config).init(latent), jnp.zeros((), jnp.int32))


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean nats per token; logits [batch, length, vocab], int targets [batch, length]."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def loss_of(model_fn: ModelFn, params: Any, windows: Any, lam: Any) -> Any:
    """Loss of predicting each window's tokens but the first; windows [batch, length + 1]."""
    return cross_entropy(model_fn(params, windows[:, :-1], lam), windows[:, 1:])


def make_train_step(
    model_fn: ModelFn, config: OptimizerConfig, *, traced_lambda: bool
) -> Callable[[TrainState, Any, Controls], tuple[TrainState, dict[str, Any]]]:
    """Returns the jitted step; it consumes (donates) the state it is given.

    Args:
      traced_lambda: λ is an argument; else it is exactly 1 and the model function is
        told so at trace time, so that nothing is blended.
    """
    optimizer = make_optimizer(config)
    rates = learning_rates(config)

    def step(state: TrainState, windows: Any, controls: Controls) -> tuple[TrainState, dict]:
        lam = controls.lam if traced_lambda else 1.0
        loss, gradients = jax.value_and_grad(lambda p: loss_of(model_fn, p, windows, lam))(
            state.params
        )
        directions, inner = optimizer.update(gradients, state.optimizer, state.params)
        kind = groups(state.params)
        params = {}
        for name, value in state.params.items():
            change = directions[name]
            if kind[name] == "matrix":
                change = change + np.float32(rates["matrix"]) * controls.weight_decay * value
            params[name] = value - controls.learning_rate * change
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(params, inner, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)


def make_window_losses(model_fn: ModelFn) -> Callable[[Any, Any], Any]:
    """Returns the jitted ``(params, windows) -> loss of each window``, at λ = 1."""

    @jax.jit
    def window_losses(params: Any, windows: Any) -> Any:
        logits = model_fn(params, windows[:, :-1], 1.0)
        return jax.vmap(cross_entropy)(logits[:, None], windows[:, None, 1:])

    return window_losses


def mean_loss(
    window_losses: Callable[[Any, Any], Any], params: Any, windows: np.ndarray, batch: int
) -> float:
    """Mean of `window_losses` over int32 `windows` [n, length + 1], nats per token."""
    batch = min(batch, len(windows))
    losses = np.zeros(len(windows))
    for start in range(0, len(windows), batch):
        # The last part reaches back so that every call has one shape: no recompilation.
        start = min(start, len(windows) - batch)
        part = windows[start : start + batch]
        losses[start : start + batch] = np.asarray(window_losses(params, part))
    return float(losses.mean())
