"""`diff`: are two files the same model, and if not, in what. Runs neither."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from bitnet_jax.analysis.differences import stored, tensors, words
from bitnet_jax.formats.open import open_checkpoint


def diff(
    model1: str | os.PathLike,
    model2: str | os.PathLike,
    *,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The record of `bitnet model diff`.

    Returns:
      equal: spec, every trit, scale and float, tokenizer, template, generation settings and
        metadata. How they are stored is no part of it, and stands in `stored`.
      differences: a row for each thing that differs; `counts`: how many in each part.
      digest: of both.

    Raises:
      NoInput, BadData: as `open_checkpoint`; a damaged tensor is named.
    """
    one, two = (open_checkpoint(m, offline=offline, progress=progress) for m in (model1, model2))
    found = words(one, two)
    for _, differences in tensors(one, two):
        found += differences
    counts = Counter(item.part for item in found)
    return {
        "model1": str(model1),
        "model2": str(model2),
        "equal": not found,
        "differences": [item.to_json() for item in found],
        "counts": dict(sorted(counts.items())),
        "stored": stored(one, two),
        "digest": {"first": one.digest().to_json(), "second": two.digest().to_json()},
    }
