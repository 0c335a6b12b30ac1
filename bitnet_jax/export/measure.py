"""What a written decoder computes: its logits by ONNX Runtime, where that is installed.

A prompt runs in two ways at once: half of it in one piece, the rest token by token through the
cache. Knows nothing of how the file was made.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.export.decoder import past_names
from bitnet_jax.ir.spec import ModelSpec

PACKAGE = "onnxruntime"
# Errors and worse: warnings are about its own optimizations.
_QUIET = 3


def runtime_name() -> str | None:
    """Name and version of ONNX Runtime; None where it is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    return f"{PACKAGE} {importlib.import_module(PACKAGE).__version__}"


def session(path: Path, **options: Any) -> Any:
    """An inference session on the CPU.

    Args:
      options: attributes of its `SessionOptions`.
    """
    runtime = importlib.import_module(PACKAGE)
    settings = runtime.SessionOptions()
    settings.log_severity_level = _QUIET
    for name, value in options.items():
        setattr(settings, name, value)
    return runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def decoder_logits(running: Any, spec: ModelSpec, tokens: np.ndarray, prefill: int) -> np.ndarray:
    """Logits of every position, float32 [batch, length, vocab]; as `row_logits`.

    Args:
      tokens: ids [batch, length].
    """
    return np.stack(row_logits(running, spec, list(tokens), prefill))


def row_logits(
    running: Any, spec: ModelSpec, rows: Sequence[np.ndarray], prefill: int
) -> list[np.ndarray]:
    """Logits of every token of rows in one batch, the shorter ones padded on the left.

    Args:
      running: a session of a decoder of ours.
      rows: ids, each [length].
      prefill: how many columns run in one piece; those after it run one at a time.

    Returns:
      float32 [length, vocab] for each row.
    """
    width = max(map(len, rows))
    mask = np.zeros((len(rows), width), np.int64)
    ids = np.zeros_like(mask)
    for at, row in enumerate(rows):
        mask[at, width - len(row) :], ids[at, width - len(row) :] = 1, row
    # As `transformers` and Optimum make them.
    positions = np.where(mask == 0, 1, mask.cumsum(1) - 1)
    names = past_names(spec)
    empty = np.zeros((len(rows), spec.num_kv_heads, 0, spec.head_dim), np.float32)
    past = dict.fromkeys(names, empty)
    cuts = [0, *range(max(prefill, 1), width), width]
    pieces = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        feed = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
            **past,
        }
        logits, *present = running.run(None, feed)
        past = dict(zip(names, present, strict=True))
        pieces.append(logits)
    found = np.concatenate(pieces, axis=1)
    return [found[at, width - len(row) :] for at, row in enumerate(rows)]
