"""Windows: every token seen once a pass, and the same batches after a resume."""

from __future__ import annotations

import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.train.data import (
    DataState,
    Windows,
    heldout_windows,
    unigram_cross_entropy,
    unigram_entropy,
)

TOKENS = np.arange(1000, dtype=np.int32)


def batches(windows, state, count, batch=4):
    out = []
    for _ in range(count):
        values, state = windows.next_batch(state, batch)
        out.append(values)
    return out, state


def test_a_window_is_consecutive_tokens():
    values, _ = Windows(TOKENS, 16).next_batch(DataState(0), 4)
    assert values.shape == (4, 17) and values.dtype == np.int32
    assert (np.diff(values, axis=1) == 1).all()


def test_a_pass_takes_each_target_once():
    windows = Windows(TOKENS, 16)
    count = len(windows.order(DataState(0)))
    values, state = windows.next_batch(DataState(0), count)
    assert state == DataState(0, epoch=1)
    targets = values[:, 1:].ravel()
    assert len(set(targets.tolist())) == len(targets) >= 1000 - 2 * 16


def test_passes_and_seeds_differ():
    windows = Windows(TOKENS, 16)
    orders = [windows.order(s).tolist() for s in (DataState(0), DataState(0, 1), DataState(1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_resumes_where_it_stood():
    windows = Windows(TOKENS, 16)
    whole, _ = batches(windows, DataState(3), 50)
    _, middle = batches(windows, DataState(3), 20)
    rest, _ = batches(windows, middle, 30)
    assert all((a == b).all() for a, b in zip(whole[20:], rest, strict=True))


def test_a_batch_may_straddle_passes():
    windows = Windows(np.arange(40, dtype=np.int32), 16)
    values, state = windows.next_batch(DataState(0), 7)
    assert values.shape == (7, 17) and state.epoch >= 2


def test_too_few_tokens():
    with pytest.raises(BadData):
        Windows(TOKENS[:32], 16)
    with pytest.raises(BadData):
        heldout_windows(TOKENS[:16], 16, 4)


def test_heldout_windows_are_spread_and_disjoint():
    windows = heldout_windows(TOKENS, 16, 8)
    assert windows.shape == (8, 17)
    targets = windows[:, 1:].ravel()
    assert len(set(targets.tolist())) == len(targets)
    assert windows[0, 0] == 0 and windows[-1, -1] > 900
    assert len(heldout_windows(TOKENS, 16, 10_000)) == 62


def test_entropy_of_known_distributions():
    assert unigram_entropy(np.arange(256)) == pytest.approx(np.log(256))
    assert unigram_entropy(np.zeros(10, np.int32)) == 0
    uniform = np.arange(8)
    assert unigram_cross_entropy(uniform, uniform, 8) == pytest.approx(np.log(8))


def test_the_tokens_own_entropy_is_the_lower_bound():
    random = np.random.default_rng(0)
    train, targets = random.geometric(0.1, (2, 5000)).clip(0, 63)
    assert unigram_entropy(targets) < unigram_cross_entropy(train, targets, 64)
