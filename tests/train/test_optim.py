"""Muon's direction, against the singular value decomposition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.train.config import OptimizerConfig
from bitnet_jax.train.optim import NEWTON_SCHULZ, ROUNDS, make_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24), (3, 8, 24)])
def test_singular_values_come_near_one(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    before = np.linalg.svd(x, compute_uv=False) / np.linalg.norm(x, axis=(-2, -1))[..., None]
    after = np.linalg.svd(orthogonalize(x), compute_uv=False)
    assert after.max() < 1.3
    # Below 0.02 of the norm three rounds do not reach: there the slope at 0 counts, 3.4³.
    assert (np.sort(after) > np.minimum(0.65, 20 * np.sort(before))).all()


def test_singular_vectors_stay():
    x = jax.random.normal(jax.random.key(2), (24, 8))
    u, _, v = np.linalg.svd(x, full_matrices=False)
    inner = u.T @ orthogonalize(x) @ v.T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-4


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_is_the_plain_newton_schulz_iteration(shape):
    x = jax.random.normal(jax.random.key(1), shape)
    a, b, c = NEWTON_SCHULZ
    wanted = x / jnp.linalg.norm(x)
    for _ in range(ROUNDS):
        gram = wanted @ wanted.T
        wanted = a * wanted + (b * gram + c * gram @ gram) @ wanted
    assert np.abs(orthogonalize(x) - wanted).max() < 1e-4


def test_a_zero_gradient_moves_nothing():
    assert not np.any(orthogonalize(jnp.zeros((8, 4))))


def test_rank_one_stays_finite():
    x = jnp.outer(jnp.arange(8.0), jnp.ones(4))
    assert np.isfinite(orthogonalize(x)).all()


def test_each_group_has_its_rate():
    config = OptimizerConfig(learning_rate=1.0, embedding_learning_rate=2.0)
    params = {"embed_tokens": jnp.ones((4, 2)), "a_proj": jnp.ones((2, 2)), "norm": jnp.ones(2)}
    optimizer = make_optimizer(config)
    gradients = {name: jnp.full_like(value, 1e-3) for name, value in params.items()}
    directions, _ = optimizer.update(gradients, optimizer.init(params), params)
    # Adam's first direction is the gradient's sign.
    assert directions["embed_tokens"] == pytest.approx(2.0, rel=1e-4)
    assert directions["norm"] == pytest.approx(config.vector_learning_rate, rel=1e-4)
    assert np.isfinite(directions["a_proj"]).all()
