"""Optimizers as optax chains: Muon for the matrices, Adam for everything else.

Give directions already times each group's peak learning rate; the schedule's
factor and the decoupled weight decay are applied by the step (`step.py`), so that
no optimizer state depends on how long a run will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitnet_jax.train.config import OptimizerConfig

# Keller Jordan's quintic. Three rounds take singular values above 0.02 of the Frobenius
# norm to 0.7 … 1.2; his five gained nothing on a ternary model of 4 M parameters and
# cost twice the time, a third of a step on two CPU cores.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 3


def group_of(name: str, shape: tuple[int, ...]) -> str:
    """Returns ``embedding``, ``matrix`` or ``vector``; a stack of matrices is a matrix.

    The embeddings are what stands below a part that begins with ``embed_``, or is
    ``lm_head``: families name theirs so.
    """
    if any(part == "lm_head" or part.startswith("embed_") for part in name.split(".")):
        return "embedding"
    return "matrix" if len(shape) >= 2 else "vector"


def groups(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns the group of each parameter."""
    return {name: group_of(name, value.shape) for name, value in params.items()}


def learning_rates(config: OptimizerConfig) -> dict[str, float]:
    """Returns the peak learning rate of each group."""
    return {
        "matrix": config.learning_rate,
        "embedding": config.embedding_learning_rate,
        "vector": config.vector_learning_rate,
    }


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the transformation of gradients into directions (ascending) times peak rate."""
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    matrix = {"muon": scale_by_orthogonal(config.momentum), "adamw": adam}[config.name]
    chains = {
        group: optax.chain(matrix if group == "matrix" else adam, optax.scale(rate))
        for group, rate in learning_rates(config).items()
    }
    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm),
        optax.multi_transform(chains, groups),
    )


def orthogonalize(x: Any) -> Any:
    """Returns [..., m, n] with singular values near 1 and `x`'s singular vectors.

    As `optax.contrib.muon`'s Newton-Schulz rounds X ← aX + b(XXᵀ)X + c(XXᵀ)²X, but the
    rounds multiply small Gram matrices (XXᵀ commutes with its polynomials) and touch X
    once at the end.
    """
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = jnp.swapaxes(x, -1, -2)
    x = x / (jnp.sqrt(jnp.sum(x * x, axis=(-1, -2), keepdims=True)) + 1e-8)
    a, b, c = NEWTON_SCHULZ
    identity = jnp.eye(x.shape[-2], dtype=x.dtype)
    gram = x @ jnp.swapaxes(x, -1, -2)
    product = identity
    for index in range(ROUNDS):
        polynomial = a * identity + b * gram + c * (gram @ gram)
        product = polynomial if index == 0 else polynomial @ product
        if index < ROUNDS - 1:
            gram = polynomial @ polynomial @ gram
    x = product @ x
    return jnp.swapaxes(x, -1, -2) if flip else x


class OrthogonalState(NamedTuple):
    """Momentum, of the parameters' shapes."""

    momentum: Any


def scale_by_orthogonal(momentum: float) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): Nesterov momentum, orthogonalized, wide outputs scaled up."""

    def init(params: Any) -> OrthogonalState:
        return OrthogonalState(jax.tree.map(jnp.zeros_like, params))

    def direction(gradient: Any, average: Any) -> Any:
        rows, columns = gradient.shape[-2:]
        factor = np.float32(np.sqrt(max(1.0, rows / columns)))
        return factor * orthogonalize((1 - momentum) * gradient + momentum * average)

    def update(updates: Any, state: OrthogonalState, params: Any = None) -> tuple[Any, Any]:
        del params
        average = jax.tree.map(
            lambda m, g: momentum * m + (1 - momentum) * g, state.momentum, updates
        )
        return jax.tree.map(direction, updates, average), OrthogonalState(average)

    return optax.GradientTransformation(init, update)
