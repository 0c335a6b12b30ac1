"""The step as a pure function, and the loss it lowers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.train.config import OptimizerConfig
from bitnet_jax.train.schedule import Controls
from bitnet_jax.train.step import (
    cross_entropy,
    init_state,
    make_train_step,
    make_window_losses,
    mean_loss,
)


def controls(rate=1.0, decay=0.0, lam=1.0):
    return Controls(np.float32(rate), np.float32(decay), np.float32(lam))


def test_cross_entropy_of_equal_logits():
    loss = cross_entropy(jnp.zeros((2, 3, 7)), jnp.zeros((2, 3), jnp.int32))
    assert loss == pytest.approx(np.log(7))


def test_cross_entropy_picks_the_target():
    logits = 50.0 * jax.nn.one_hot(jnp.array([[1, 2]]), 4)
    assert cross_entropy(logits, jnp.array([[1, 2]])) == pytest.approx(0, abs=1e-6)


def test_evaluate_is_the_mean_whatever_the_batch(model_fn, params, data):
    windows = np.stack([data.heldout[i * 16 : i * 16 + 17] for i in range(10)])
    window_losses = make_window_losses(model_fn)
    losses = [mean_loss(window_losses, params, windows, batch) for batch in (1, 4, 10, 64)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_decay_moves_matrices_only(model_fn, params, data):
    config = OptimizerConfig(learning_rate=0.1)
    batch = data.train[: 4 * 17].reshape(4, 17)
    step = make_train_step(model_fn, config, traced_lambda=False)
    plain, _ = step(init_state(params, config), batch, controls())
    decayed, _ = step(init_state(params, config), batch, controls(decay=0.5))
    assert np.array_equal(plain.params["embed_tokens"], decayed.params["embed_tokens"])
    name = "layers.0.mlp.up_proj"
    difference = np.asarray(plain.params[name] - decayed.params[name])
    assert difference == pytest.approx(0.1 * 0.5 * np.asarray(params[name]), abs=1e-6)


def test_a_rate_of_zero_moves_nothing(model_fn, params, data):
    config = OptimizerConfig()
    step = make_train_step(model_fn, config, traced_lambda=False)
    after, metrics = step(init_state(params, config), data.train[:17][None], controls(rate=0))
    assert all(np.array_equal(after.params[name], params[name]) for name in params)
    assert int(after.step) == 1 and metrics["gradient_norm"] > 0


def test_one_compilation_serves_all_steps(model_fn, params, data):
    config = OptimizerConfig()
    traces = []

    def counting(params, tokens, lam):
        traces.append(1)
        return model_fn(params, tokens, lam)

    step = make_train_step(counting, config, traced_lambda=True)
    state = init_state(params, config)
    for rate in (0.1, 0.2, 0.3):
        state, _ = step(state, data.train[:17][None], controls(rate, lam=rate))
    assert len(traces) == 1
