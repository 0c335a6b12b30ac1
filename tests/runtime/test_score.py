from __future__ import annotations

import math

import numpy as np
import pytest

from bitnet_jax.core.errors import CheckFailed, UsageError
from bitnet_jax.runtime.score import Score, score, score_sequences, token_logprobs

TABLE = np.random.default_rng(0).normal(size=(11, 11)).astype(np.float32) * 4


def bigram(tokens):
    """A model whose next token depends on the last one only: windows change nothing."""
    assert tokens.dtype == np.int32
    return TABLE[tokens]


def expected(sequence):
    logits = TABLE.astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array([logs[a, b] for a, b in zip(sequence, sequence[1:], strict=False)])


def test_log_probabilities_are_a_log_softmax(rng):
    logits = (rng.normal(size=(3, 70, 500)) * 10).astype(np.float32)
    targets = rng.integers(0, 500, (3, 70))
    exact = logits.astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    got = token_logprobs(logits, targets)
    assert got.dtype == np.float64 and got.shape == (3, 70)
    np.testing.assert_allclose(
        got, np.take_along_axis(exact, targets[..., None], -1)[..., 0], atol=3e-7
    )


def test_huge_and_masked_logits():
    rows = np.array([[1e30, 0.0], [-np.inf, 3.0]], np.float32)
    np.testing.assert_array_equal(token_logprobs(rows, np.array([0, 1])), [0, 0])
    assert token_logprobs(rows, np.array([0, 0]))[1] == -np.inf
    assert token_logprobs(np.zeros((0, 5), np.float32), np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_a_failed_check(value):
    with pytest.raises(CheckFailed) as caught:
        token_logprobs(np.array([[0.0, value]]), np.array([0]))
    assert caught.value.code == "score.not_finite"


@pytest.mark.parametrize("token", [-1, 11])
def test_a_token_without_a_logit_is_refused(token):
    with pytest.raises(UsageError) as caught:
        token_logprobs(TABLE[:1], np.array([token]))
    assert caught.value.code == "score.token"


@pytest.mark.parametrize("length", [2, 3, 5, 16])
@pytest.mark.parametrize("overlap", [1, 2, 4])
def test_every_token_is_scored_once_in_any_windows(length, overlap, rng):
    if overlap >= length:
        return
    sequences = [rng.integers(0, 11, n).tolist() for n in (0, 1, 2, 5, 16, 33)]
    got = score_sequences(bigram, sequences, length=length, overlap=overlap, batch=3)
    for sequence, logs in zip(sequences, got, strict=True):
        np.testing.assert_allclose(logs, expected(sequence), atol=1e-6)


def test_windows_overlap_by_what_was_asked():
    seen = []

    def counting(tokens):
        seen.append(tokens.tolist())
        return np.zeros((*tokens.shape, 20), np.float32)

    score_sequences(counting, [list(range(1, 9))], length=5, overlap=2, batch=2)
    assert seen == [[[1, 2, 3, 4, 5], [4, 5, 6, 7, 8]]]


def test_totals(rng):
    sequences = [rng.integers(0, 11, 40).tolist() for _ in range(3)]
    total = score(bigram, sequences, length=8, batch=2)
    nll = -sum(expected(s).sum() for s in sequences)
    assert total.tokens == 3 * 39
    assert total.nll == pytest.approx(nll, rel=1e-7)
    assert total.perplexity == pytest.approx(math.exp(nll / 117), rel=1e-6)
    assert math.isnan(score(bigram, [], length=4).perplexity)
    assert Score(1, 1e9).perplexity == math.inf


@pytest.mark.parametrize(
    "window", [{"length": 1}, {"length": 4, "overlap": 4}, {"length": 4, "overlap": 0}]
)
def test_windows_that_cannot_be_are_refused(window):
    with pytest.raises(UsageError) as caught:
        score_sequences(bigram, [[1, 2]], **window)
    assert caught.value.code == "score.window"
