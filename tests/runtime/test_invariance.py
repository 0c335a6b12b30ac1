"""A token's logits depend on its own row alone: not on the batch, the pieces of its prompt, the
capacity of the cache or the threads. Bits are compared."""

import numpy as np
import pytest

from bitnet_jax.models.families import family_of
from bitnet_jax.ops.native import library as native
from bitnet_jax.passes.pack import pack
from bitnet_jax.runtime.engine import Engine
from tests.ops.native.threads import threads
from tests.tiny import tiny_spec

# Heads that fill the kernels' lanes; sizes that are no multiple of a block.
SPEC = tiny_spec(
    vocab_size=71, hidden_size=80, intermediate_size=112, head_dim=32, max_positions=600
)
needs_kernels = pytest.mark.skipif(
    not native.status().available, reason="the order of sums is the C++ kernels'"
)
pytestmark = needs_kernels
PROMPT = 150  # over a chunk of keys, and no length that is compiled


@pytest.fixture(scope="module")
def engine():
    family = family_of("bitnet")
    params = family.init(SPEC, 3)
    return Engine(
        SPEC, pack(family.forward(SPEC), params, family.rules, np.zeros((1, 2), np.int32))
    )


def ids(length, seed):
    return np.random.default_rng(seed).integers(0, SPEC.vocab_size, length).astype(np.int32)


def in_pieces(engine, rows, piece, capacity):
    """The logits of each row's last token [rows, vocab], its prompt run `piece` tokens at once."""
    batch, length = rows.shape
    cache = engine.new_cache(batch, capacity)
    logits = None
    for at in range(0, length, piece):
        some = rows[:, at : at + piece]
        run = engine.prefill_executable(batch, some.shape[1], capacity)
        start, last = np.full(batch, at, np.int32), np.full(batch, some.shape[1] - 1, np.int32)
        logits, cache, _ = run(engine.packed, some, cache, start, last)
    return np.asarray(logits), cache


@pytest.fixture(scope="module")
def alone(engine):
    """One row, token by token: what everything else must equal."""
    return in_pieces(engine, ids(PROMPT, 0)[None], 1, 256)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("piece", [2, 7, 33, PROMPT])
def test_the_pieces_of_a_prompt(engine, alone, piece):
    found, cache = in_pieces(engine, ids(PROMPT, 0)[None], piece, 256)
    assert np.array_equal(found, alone[0])
    for mine, its in zip(cache.keys, alone[1].keys, strict=True):
        assert np.array_equal(np.asarray(mine)[:, :PROMPT], np.asarray(its)[:, :PROMPT])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batch", [2, 7, 8, 33])
def test_neighbours(engine, alone, batch):
    rows = np.stack([ids(PROMPT, seed) for seed in range(batch)])
    found, _ = in_pieces(engine, rows, PROMPT, 256)
    assert np.array_equal(found[:1], alone[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_and_capacity(engine, alone, count):
    with threads(count):
        found, _ = in_pieces(engine, ids(PROMPT, 0)[None], 64, 600)
    assert np.array_equal(found, alone[0])


def test_rows_of_their_own_lengths(engine):
    """A decode step of rows that stand at different positions."""
    lengths = [3, 140, 70, 129]
    cache = engine.new_cache(len(lengths), 256)
    singles = []
    for row, length in enumerate(lengths):
        _, one = in_pieces(engine, ids(length, row)[None], length, 256)
        for half in ("keys", "values"):
            joined = [np.asarray(all_rows).copy() for all_rows in getattr(cache, half)]
            for layer, mine in zip(joined, getattr(one, half), strict=True):
                layer[row] = np.asarray(mine)[0]
            cache = type(cache)(**{"keys": cache.keys, "values": cache.values, half: tuple(joined)})
        step = engine.decode_executable(1, 256)
        token, start = np.full((1, 1), 5 + row, np.int32), np.asarray([length], np.int32)
        logits, *_ = step(engine.packed, token, one, start, np.zeros(1, np.int32))
        singles.append(np.asarray(logits)[0])
    step = engine.decode_executable(len(lengths), 256)
    tokens = np.arange(5, 5 + len(lengths), dtype=np.int32)[:, None]
    zeros = np.zeros(len(lengths), np.int32)
    logits, *_ = step(engine.packed, tokens, cache, np.asarray(lengths, np.int32), zeros)
    assert np.array_equal(np.asarray(logits), np.stack(singles))
