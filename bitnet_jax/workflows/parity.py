"""Parity: are two runs of the same model the same, by the rules of the numerics contract.

Two correct implementations may differ in a last bit, and one such bit can flip an
int8 code, after which everything differs a little: so the largest difference says
little and the median over tokens much. Knows no file format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# docs/decisions/0002: (b) end to end, and (d) for tiny models.
MEDIAN_LIMIT = 2e-6
CLEAR_MARGIN = 1e-3
# A code that flips turns the first choice of a token now and then, however clear: 1 of 1,021 seen.
CLEAR_SHARE = 0.99
TINY_LIMIT = 2e-5
# Logits that are widened at once.
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Parity:
    """How far two sets of logits are apart, relative to the largest reference logit.

    Attributes:
      max_logit_difference: over all tokens and ids.
      median_logit_difference: median over tokens of the token's largest difference.
      top1_agreement: share of tokens with the same best id.
      top1_clear_agreement: the same, over tokens whose reference margin exceeds 1e-3.
      tokens: how many positions were compared.
    """

    max_logit_difference: float
    median_logit_difference: float
    top1_agreement: float
    top1_clear_agreement: float
    tokens: int

    @property
    def holds(self) -> bool:
        """Rule (b): all finite, the median within 2e-6, top-1 equal where the margin is clear.

        Of a hundred such tokens one may differ; of fewer, none.
        """
        return (
            math.isfinite(self.max_logit_difference)
            and self.median_logit_difference <= MEDIAN_LIMIT
            and self.top1_clear_agreement >= CLEAR_SHARE
        )

    def words(self) -> str:
        """What the rule looks at, and what it allows."""
        return (
            f"over {self.tokens} tokens the median is {self.median_logit_difference:.3g} of the "
            f"largest logit, {MEDIAN_LIMIT:g} is allowed; of those with a clear first choice "
            f"{self.top1_clear_agreement:.2%} agree, {CLEAR_SHARE:.0%} must"
        )


def compare_logits(reference: Any, logits: Any) -> Parity:
    """Compares float32 logits [..., vocab] of the same tokens.

    NaN anywhere gives infinite differences: it is no agreement.
    """
    reference = np.asarray(reference).reshape(-1, np.shape(reference)[-1])
    logits = np.asarray(logits).reshape(reference.shape)
    return compare_parts([(reference, logits)])


def compare_parts(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Parity:
    """As `compare_logits`, of logits that come in parts: reference and other, [tokens, vocab]."""
    largest, rows = 0.0, []
    for one, other in _widened(parts):
        with np.errstate(invalid="ignore"):
            apart = np.abs(other - one).max(axis=-1)
            largest = np.maximum(largest, np.abs(one).max())
            best = np.sort(np.partition(one, -2, axis=-1)[:, -2:], axis=-1)
            clear = best[:, 1] - best[:, 0] > CLEAR_MARGIN
        rows.append((apart, clear, one.argmax(-1) == other.argmax(-1)))
    apart, clear, same = (np.concatenate(column) for column in zip(*rows, strict=True))
    with np.errstate(invalid="ignore"):
        difference = apart / largest
    difference = np.where(np.isfinite(difference), difference, np.inf)
    return Parity(
        max_logit_difference=float(difference.max()),
        median_logit_difference=float(np.median(difference)),
        top1_agreement=float(same.mean()),
        top1_clear_agreement=float(same[clear].mean()) if clear.any() else 1.0,
        tokens=len(difference),
    )


def _widened(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In float64, a few tokens at a time: those of a large vocabulary are gigabytes."""
    for reference, logits in parts:
        step = max(_AT_ONCE // reference.shape[1], 1)
        for start in range(0, len(reference), step):
            rows = slice(start, start + step)
            yield reference[rows].astype(np.float64), logits[rows].astype(np.float64)
