"""A model small enough that a training run takes milliseconds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.train.config import ModelConfig, OptimizerConfig, TrainConfig
from bitnet_jax.train.loop import TrainData

VOCAB, HIDDEN = 32, 16


def tiny_model(params, tokens, lam):
    """Embedding, one residual linear (scaled by λ, to see that it arrives), tied head."""
    x = params["embed_tokens"][tokens]
    x = x + lam * jnp.tanh(x @ params["layers.0.mlp.up_proj"].T) * params["norm"]
    return x @ params["embed_tokens"].T


@pytest.fixture
def model_fn():
    return tiny_model


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "embed_tokens": 0.3 * jax.random.normal(keys[0], (VOCAB, HIDDEN)),
        "layers.0.mlp.up_proj": 0.3 * jax.random.normal(keys[1], (HIDDEN, HIDDEN)),
        "norm": jnp.ones(HIDDEN),
    }


@pytest.fixture
def data():
    # A noisy cycle: a bigram model is far under the unigram entropy.
    random = np.random.default_rng(0)
    steps = random.choice([1, 2], size=6000, p=[0.9, 0.1])
    tokens = (np.cumsum(steps) % VOCAB).astype(np.int32)
    return TrainData(train=tokens[:5000], heldout=tokens[5000:])


@pytest.fixture
def config():
    return TrainConfig(
        steps=30,
        batch=4,
        length=16,
        warmup_steps=4,
        eval_windows=8,
        model=ModelConfig(),
        optimizer=OptimizerConfig(embedding_learning_rate=0.05, vector_learning_rate=0.01),
    )
