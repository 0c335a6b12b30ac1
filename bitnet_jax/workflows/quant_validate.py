"""A quantized model against its original, within a tolerance, on the same text.

The difference is taken token by token, so that what both find hard cancels, and its interval
is over windows of text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from bitnet_jax.core.errors import UsageError, did_you_mean
from bitnet_jax.core.memory import check_room_to_compile
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.stats.means import Interval, mean_interval
from bitnet_jax.targets.choose import choose
from bitnet_jax.workflows.measured_text import TOKENS, Windows, read_windows
from bitnet_jax.workflows.model_pair import ORIGINAL, check_pair, losses, read_alone, read_both

Measured = tuple[Interval, dict[str, Any]]


def quant_validate(
    model: str | os.PathLike,
    reference: str | os.PathLike,
    *,
    tolerance: float = 0.03,
    metric: str = "ppl",
    text: str | os.PathLike | None = None,
    tokens: int = TOKENS,
    length: int | None = None,
    device: str = "auto",
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Compares `model` with `reference`; a record, whether it passes or not.

    Args:
      tolerance: the most that `metric` may be.
      metric: a key of `METRICS`.
      text, tokens, length: as `read_windows` takes them.

    Returns:
      ``metric``, ``value``, ``tolerance``, ``passed`` (value ≤ tolerance), ``low`` and ``high`` (95
      %), ``certain`` (the interval lies on one side of the tolerance), and what else was seen.

    Raises:
      UsageError: `metric` is unknown (``quant.metric``), `tolerance` is no finite number from 0
        (``quant.tolerance``).
      BadData: the two do not read the same tokens (`check_pair`).
    """
    if metric not in METRICS:
        raise UsageError(
            "quant.metric", f"metric {metric!r} is unknown", did_you_mean(str(metric), METRICS)
        )
    if not math.isfinite(tolerance) or tolerance < 0:
        raise UsageError(
            "quant.tolerance", f"tolerance is {tolerance}", "a finite number, 0 or above"
        )
    choose(device)
    check_room_to_compile()
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    original, made = open_checkpoint(reference, **reach), open_checkpoint(model, **reach)
    check_pair(original, made)
    reader = original if original.tokenizer is not None else made
    windows = read_windows(reader, text, tokens=tokens, length=length)
    found, beside = METRICS[metric](original, made, windows, progress)
    return {
        "metric": metric,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "tolerance": tolerance,
        "passed": found.value <= tolerance,
        "certain": found.high <= tolerance or found.low > tolerance,
        **beside,
        "model": made.source.to_json(),
        "reference": original.source.to_json(),
        "text": windows.to_json(),
        "warnings": [*original.warnings, *made.warnings],
    }


def _perplexity(
    original: Checkpoint, made: Checkpoint, windows: Windows, progress: Any
) -> Measured:
    before = read_alone(original, windows.tokens, progress, ORIGINAL)
    after = read_alone(made, windows.tokens, progress)
    change = mean_interval(after.nll - before.nll)
    return change.through(_relative), losses(before, after)


def _relative(change: float) -> float:
    try:
        return math.expm1(change)
    except OverflowError:
        return math.inf


def _first_choice(
    original: Checkpoint, made: Checkpoint, windows: Windows, progress: Any
) -> Measured:
    before = read_alone(original, windows.tokens, progress, ORIGINAL)
    after = read_alone(made, windows.tokens, progress)
    return mean_interval((after.best != before.best).astype(float)), losses(before, after)


def _divergence(
    original: Checkpoint, made: Checkpoint, windows: Windows, progress: Any
) -> Measured:
    kl, _ = read_both(original, made, windows.tokens, progress)
    return mean_interval(kl), {}


def _logits(original: Checkpoint, made: Checkpoint, windows: Windows, progress: Any) -> Measured:
    _, apart = read_both(original, made, windows.tokens, progress)
    return mean_interval(apart), {"largest": float(apart.max())}


# ppl: perplexity over the reference's, less 1. kl: mean KL(reference ‖ model), nats per token.
# logits: mean over tokens of the largest difference of a logit, over the token's largest.
# top1: the share of tokens whose first choice differs.
METRICS: dict[str, Callable[[Checkpoint, Checkpoint, Windows, Any], Measured]] = {
    "ppl": _perplexity,
    "kl": _divergence,
    "logits": _logits,
    "top1": _first_choice,
}
