"""Log-probabilities and perplexity of token sequences, from any logits function.

A sequence longer than a window is scored in windows that overlap, each token once
and with at least `overlap` tokens before it. Shapes are constant, so the logits
function compiles once. Sums are float64 on the host. Knows nothing of models or
text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.core.errors import CheckFailed, UsageError

# tokens int32 [B, L] -> logits float32 [B, L, V]; causal: padding on the right changes nothing.
LogitsFn = Callable[[np.ndarray], Any]
# Positions turned into probabilities at a time: 64 × 128k float32 are 33 MB.
_ROWS = 64


@dataclass(frozen=True)
class Score:
    """What sequences cost under a model.

    Attributes:
      tokens: how many were predicted (all but the first of each sequence).
      nll: sum of -log p over them, in nats.
    """

    tokens: int
    nll: float

    @property
    def loss(self) -> float:
        """Mean nats per token (NaN where nothing was predicted)."""
        return self.nll / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """``exp(loss)``; infinite beyond the range of float64."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


def token_logprobs(logits: Any, targets: np.ndarray) -> np.ndarray:
    """Returns log p of each target, float64: ``log_softmax(logits)[..., targets]``.

    Args:
      logits: [..., V], any float dtype; -inf is a masked token.
      targets: integers [...], below V.

    Raises:
      CheckFailed: ``score.not_finite``: a NaN or +inf among the logits.
      UsageError: ``score.token``: a target that the model has no logit for.
    """
    rows = np.asarray(logits)
    size = rows.shape[-1]
    rows, flat = rows.reshape(-1, size), np.asarray(targets).reshape(-1)
    if flat.size and not (flat.min() >= 0 and flat.max() < size):
        raise UsageError("score.token", f"a token is outside the model's 0..{size - 1}")
    result = np.empty(flat.shape, np.float64)
    for start in range(0, len(flat), _ROWS):
        part = slice(start, start + _ROWS)
        result[part] = _logprobs(rows[part].astype(np.float32), flat[part])
    return result.reshape(np.shape(targets))


def _logprobs(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    best = rows.max(-1, keepdims=True)
    if not np.isfinite(best).all():  # max carries a NaN; -inf means that all are masked
        raise CheckFailed("score.not_finite", "the model's logits are not finite numbers")
    # float32 exponentials (each within 1e-7) summed in float64: as exact as float32 logits
    # deserve, at a fifth of the time.
    sums = np.exp(rows - best).sum(-1, dtype=np.float64)
    chosen = rows[np.arange(len(targets)), targets].astype(np.float64)
    return chosen - best[:, 0].astype(np.float64) - np.log(sums)


def score_sequences(
    logits_fn: LogitsFn,
    sequences: Sequence[Sequence[int]],
    *,
    length: int,
    overlap: int = 1,
    batch: int = 1,
    pad_id: int = 0,
) -> list[np.ndarray]:
    """Returns, for each sequence, log p of its tokens after the first, float64 [N-1].

    Args:
      logits_fn: always called with int32 [batch, length].
      sequences: token ids; one of fewer than two tokens predicts nothing.
      length: tokens in a window, at least 2.
      overlap: tokens that a window repeats from the one before, 1 to length - 1: more
        of them give later tokens more context and cost more windows.
      batch: windows in a call.
      pad_id: fills what a window lacks.

    Raises:
      UsageError: ``score.window``, ``score.token``. CheckFailed: ``score.not_finite``.
    """
    if length < 2 or not 1 <= overlap < length or batch < 1:
        raise UsageError(
            "score.window",
            f"window of {length} tokens, overlap {overlap}, batch {batch}",
            "length >= 2, 1 <= overlap < length, batch >= 1",
        )
    results = [np.zeros(max(0, len(s) - 1), np.float64) for s in sequences]
    windows = list(_windows(sequences, length, overlap))
    for first in range(0, len(windows), batch):
        group = windows[first : first + batch]
        tokens = np.full((batch, length), pad_id, np.int32)
        for row, (index, start, _) in enumerate(group):
            part = sequences[index][start : start + length]
            tokens[row, : len(part)] = part
        logits = logits_fn(tokens)
        for row, (index, start, new) in enumerate(group):
            end = min(start + length, len(sequences[index]))
            # Position i predicts token i + 1.
            results[index][new - 1 : end - 1] = token_logprobs(
                logits[row, new - 1 - start : end - 1 - start],
                tokens[row, new - start : end - start],
            )
    return results


def score(logits_fn: LogitsFn, sequences: Sequence[Sequence[int]], **window: int) -> Score:
    """Returns the totals of `score_sequences`, which says what `window` takes."""
    parts = score_sequences(logits_fn, sequences, **window)
    nll = -math.fsum(math.fsum(part) for part in parts)
    return Score(tokens=sum(len(part) for part in parts), nll=nll)


def _windows(
    sequences: Sequence[Sequence[int]], length: int, overlap: int
) -> Iterator[tuple[int, int, int]]:
    """Yields (sequence, first token of the window, first token that it scores)."""
    for index, sequence in enumerate(sequences):
        start, new = 0, 1
        while new < len(sequence):
            yield index, start, new
            new = start + length
            start = new - overlap
