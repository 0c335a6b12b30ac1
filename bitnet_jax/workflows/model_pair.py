"""Two models over the same windows of text, token by token: the original, and what was made of it.

Both run as they are served, in the engine's exact profile. Where only each model's own figures
are wanted, one is in memory at a time. Knows no tolerance and no output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.bench.progress import task
from bitnet_jax.core.errors import BadData, CheckFailed
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.score import token_logprobs
from bitnet_jax.runtime.tokenizer import Tokenizer
from bitnet_jax.stats.means import mean_interval

# Logits held at once of each model: [windows, length, vocabulary].
LOGITS_AT_ONCE = 1 << 25
MOST_WINDOWS = 8


@dataclass(frozen=True)
class Read:
    """What one model makes of the windows: [windows, length - 1].

    Attributes:
      nll: -log p of the text's next token, float64, in nats.
      best: the first choice.
    """

    nll: np.ndarray
    best: np.ndarray


def check_pair(reference: Checkpoint, model: Checkpoint) -> None:
    """Raises unless both read the same tokens: then their losses can be set side by side.

    Raises:
      BadData: family (``pair.family``), vocabulary (``pair.vocabulary``) or tokenizer
        (``pair.tokenizer``) differ.
    """
    ours, theirs = model.spec, reference.spec
    names = f"`{model.source.path}`", f"`{reference.source.path}`"
    hint = "name the model that it was made from"
    if ours.family != theirs.family:
        raise BadData(
            "pair.family",
            f"{names[0]} is of family `{ours.family}`, the reference {names[1]} of "
            f"`{theirs.family}`",
            hint,
        )
    if ours.vocab_size != theirs.vocab_size:
        raise BadData(
            "pair.vocabulary",
            f"{names[0]} has {ours.vocab_size} tokens, the reference {names[1]} "
            f"{theirs.vocab_size}",
            hint,
        )
    if model.tokenizer is None or reference.tokenizer is None:
        return  # what stands in one of them, or the caller's ids, both take for theirs
    if model.tokenizer.tokenizer_json == reference.tokenizer.tokenizer_json:
        return
    mine, other = (Tokenizer.from_files(c.tokenizer) for c in (model, reference) if c.tokenizer)
    differing = [
        token for token in range(ours.vocab_size) if mine.token(token) != other.token(token)
    ]
    if differing or mine.encode(_PROBE) != other.encode(_PROBE):
        what = f"token {differing[0]} first" if differing else "they cut the same text differently"
        raise BadData(
            "pair.tokenizer",
            f"the tokenizers of {names[0]} and of the reference {names[1]} differ: {what}",
            "losses by token can only be compared on the same tokens; " + hint,
        )


_PROBE = "def f(x):\n    return 'Ünïcode' + str(x) * 2  # The quick brown fox, 1234567890.\n\n\t"


def batches(windows: np.ndarray, vocabulary: int) -> Iterator[np.ndarray]:
    """The windows in pieces whose logits fit."""
    most = min(MOST_WINDOWS, max(1, LOGITS_AT_ONCE // (windows.shape[1] * vocabulary)))
    for start in range(0, len(windows), most):
        yield windows[start : start + most]


def read_alone(checkpoint: Checkpoint, windows: np.ndarray, progress: Any = None) -> Read:
    """Runs one model over the windows.

    Raises:
      CheckFailed: its logits are not finite numbers (``score.not_finite``).
    """
    model = Model(checkpoint)
    parts = []
    with task(progress, "read the text", len(windows), "window") as told:
        for tokens in batches(windows, checkpoint.spec.vocab_size):
            logits = model.logits(tokens)[:, :-1]
            parts.append((-token_logprobs(logits, tokens[:, 1:]), logits.argmax(-1)))
            for _ in tokens:
                told()
    return Read(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def read_both(
    reference: Checkpoint, model: Checkpoint, windows: np.ndarray, progress: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Runs both models over the windows, side by side.

    Returns:
      ``kl``: KL(reference ‖ model) in nats, and ``logits``: the largest difference of a token's
      logits over its largest reference logit; both float64 [windows, length - 1].

    Raises:
      CheckFailed: logits are not finite numbers (``score.not_finite``).
    """
    original, made = Model(reference), Model(model)
    parts = []
    with task(progress, "compare both", len(windows), "window") as told:
        for tokens in batches(windows, reference.spec.vocab_size):
            p, q = (m.logits(tokens)[:, :-1] for m in (original, made))
            if not (np.isfinite(p).all() and np.isfinite(q).all()):
                raise CheckFailed("score.not_finite", "the model's logits are not finite numbers")
            largest = np.abs(p).max(-1).astype(np.float64)
            apart = np.abs(p - q).max(-1) / np.maximum(largest, np.finfo(np.float64).tiny)
            parts.append((kl_of(p, q), apart))
            for _ in tokens:
                told()
    kl, apart = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return kl, apart


def kl_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p ‖ q) in nats, float64 [...], of the distributions of float logits [..., V]."""
    p, q = (_log_softmax(logits) for logits in (p, q))
    # Rounding alone can take a difference of nothing below zero.
    return np.maximum((np.exp(p) * (p - q)).sum(-1, dtype=np.float64), 0)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(logits.dtype)


def losses(reference: Read, found: Read) -> dict[str, Any]:
    """Both losses, their paired difference and what it is in perplexity; each with 95 %.

    Returns:
      ``loss_before``, ``loss_after`` (nats per token), ``loss_change``, ``perplexity_before``,
      ``perplexity_after``, ``perplexity_ratio``, ``top1_agreement``: ``{value, low, high}``.
    """
    before, after = mean_interval(reference.nll), mean_interval(found.nll)
    change = mean_interval(found.nll - reference.nll)
    same = mean_interval((found.best == reference.best).astype(np.float64))
    return {
        "loss_before": before.to_json(),
        "loss_after": after.to_json(),
        "loss_change": change.to_json(),
        "perplexity_before": before.through(exp).to_json(),
        "perplexity_after": after.through(exp).to_json(),
        "perplexity_ratio": change.through(exp).to_json(),
        "top1_agreement": same.to_json(),
    }


def measured(
    reference: Checkpoint, model: Checkpoint, windows: np.ndarray, progress: Any = None
) -> dict[str, Any]:
    """The `losses` of both, one in memory at a time."""
    before = read_alone(reference, windows, progress)
    return losses(before, read_alone(model, windows, progress))


def exp(value: float) -> float:
    """``e**value``; infinite beyond the range of float64."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))
