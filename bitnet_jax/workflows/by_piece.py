"""The parity rules asked of each piece of a model: docs/decisions/0021.

One code that rounds the other way, and in a large model there is one in most tokens, spoils all
that comes after it: the rule for the whole is asked of each piece, from the same input. Knows
nothing of who ran the pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitnet_jax.workflows.parity import MEDIAN_LIMIT, compare_logits


def judged(
    expected: np.ndarray,
    logits: np.ndarray,
    borders: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """Of a run that was led by our values: its logits, and each border where it was.

    Args:
      expected: our logits, float32 [..., vocab].
      logits: the run's, of the same tokens.
      borders: by the parameter that comes next: our value, and what the run had there.
    """
    parity = compare_logits(expected, logits)
    medians = {
        name: compare_logits(*border).median_logit_difference for name, border in borders.items()
    }
    medians["logits"] = parity.median_logit_difference
    worst = max(medians, key=lambda name: medians[name])
    return {
        "borders": len(borders),
        "worst": "of the logits" if worst == "logits" else f"before {worst}",
        "worst_median": medians[worst],
        "top1_clear_agreement": parity.top1_clear_agreement,
        "holds": parity.holds and medians[worst] <= MEDIAN_LIMIT,
    }


def words(by_piece: Mapping[str, Any]) -> str:
    """What was found, as it goes on behind `Parity.words`."""
    return (
        f"; each piece given our values, the median is {by_piece['worst_median']:.3g} "
        f"{by_piece['worst']}, and {by_piece['top1_clear_agreement']:.2%} agree"
    )
