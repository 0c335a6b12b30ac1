"""Small float models that were really trained, on Python's own library: minutes at most."""

from pathlib import Path

import numpy as np

from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.families import family_for
from bitnet_jax.train.config import DataConfig, ModelConfig, TrainConfig
from bitnet_jax.train.loop import train
from bitnet_jax.workflows.train import prepare_scratch

# Four layers of seven linears.
MODEL = ModelConfig(
    vocab_size=512,
    hidden_size=96,
    intermediate_size=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=24,
    max_positions=256,
)


def trained(path, seed, steps=200):
    """Trains a model in floats alone and writes it for transformers; returns its loss."""
    recipe = TrainConfig(
        steps=steps,
        batch=8,
        length=64,
        seed=seed,
        model=MODEL,
        data=DataConfig(max_bytes=2_000_000),
    ).validate()
    prepared = prepare_scratch(recipe)
    forward = family_for(prepared.spec).forward(prepared.spec)
    result = train(
        lambda params, tokens, lam: forward(params, tokens),
        prepared.params,
        prepared.data,
        recipe,
        spec=prepared.spec.to_json(),
    )
    floats = {name: np.asarray(value) for name, value in result.state.params.items()}
    source = Source(Path("training"), "training", "float")
    model = checkpoint_of(prepared.spec, floats, prepared.tokenizer, source)
    save_checkpoint(model, path, format="huggingface")
    return result.heldout_loss
