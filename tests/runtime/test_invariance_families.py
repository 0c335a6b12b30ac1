"""The laws of `test_invariance.py` for the other families: bits depend on a row alone."""

import numpy as np
import pytest

from bitnet_jax.models.families import family_of
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.packed import Packed
from bitnet_jax.runtime.engine import Engine
from tests.runtime.test_invariance import ids, in_pieces, needs_kernels
from tests.tiny import tiny_of

pytestmark = [needs_kernels, pytest.mark.heavy]

# Heads that fill the kernels' lanes; sizes that are no multiple of a block.
SIZES = {"vocab_size": 71, "hidden_size": 80, "intermediate_size": 112, "head_dim": 32}
LLAMA3 = {
    "rope_type": "llama3", "rope_factor": 8.0, "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0, "rope_original_positions": 32,
}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True}
EXTRA = {
    "llama": LLAMA3 | BIASES | {"linear_norms": True},
    "gemma3": {"sliding_window": 40, "layer_types": "sf"},
    "phi": {},
    "qwen3": {"sliding_window": 130, "layer_types": "fs"},
    "smollm3": {"rope_layers": "rn"},
}
LENGTH = 150  # over a chunk of keys


@pytest.mark.parametrize("ternary", [True, False], ids=["ternary", "float"])
@pytest.mark.parametrize("name", EXTRA)
def test_neither_neighbours_nor_pieces_are_seen(name, ternary):
    spec = tiny_of(name, **SIZES, max_positions=600, extra=EXTRA[name])
    family = family_of(name)
    rng = np.random.default_rng(0)
    params = {
        key: np.asarray(value) + 0.1 * rng.standard_normal(value.shape).astype(np.float32)
        for key, value in family.init(spec, 3).items()
    }
    example = np.zeros((1, 2), np.int32)
    packed = (
        pack(family.forward(spec), params, family.rules, example) if ternary else Packed.of(params)
    )
    engine = Engine(spec, packed)
    row = ids(LENGTH, 0)[None]
    alone, cache = in_pieces(engine, row, LENGTH, 256)
    pieces, again = in_pieces(engine, row, 33, 256)
    assert np.array_equal(pieces, alone)
    for mine, its in zip(again.keys, cache.keys, strict=True):
        assert np.array_equal(np.asarray(mine)[:, :LENGTH], np.asarray(its)[:, :LENGTH])
    rows = np.stack([ids(LENGTH, seed) for seed in range(3)])
    assert np.array_equal(in_pieces(engine, rows, LENGTH, 256)[0][:1], alone)
    whole = engine.logits(row)[0, -1]
    np.testing.assert_allclose(alone[0], whole, atol=2e-5 * np.abs(whole).max())
