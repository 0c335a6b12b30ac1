"""What a written decoder computes: its logits by ONNX Runtime, where that is installed.

A prompt runs in two ways at once: half of it in one piece, the rest token by token through the
cache. Knows nothing of how the file was made.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
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


def session(model: Path | bytes, entries: Mapping[str, str] | None = None, **options: Any) -> Any:
    """An inference session on the CPU.

    Args:
      model: a file, or a model itself.
      entries: further settings, by ONNX Runtime's names for them.
      options: attributes of its `SessionOptions`.
    """
    runtime = importlib.import_module(PACKAGE)
    settings = runtime.SessionOptions()
    settings.log_severity_level = _QUIET
    for name, value in options.items():
        setattr(settings, name, value)
    for name, value in (entries or {}).items():
        settings.add_session_config_entry(name, value)
    what = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(what, settings, providers=["CPUExecutionProvider"])


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
    past, found = no_past(spec, rows), []
    for feed in calls_of(rows, prefill):
        logits, *present = running.run(None, feed | past)
        past = dict(zip(past, present, strict=True))
        found.append(logits)
    return of_rows(found, rows)


# ------------------------------------------------------------------------------------ the calls
def calls_of(rows: Sequence[np.ndarray], prefill: int) -> list[dict[str, np.ndarray]]:
    """The inputs of each call but the cache; see `row_logits`."""
    width = max(map(len, rows))
    mask = np.zeros((len(rows), width), np.int64)
    ids = np.zeros_like(mask)
    for at, row in enumerate(rows):
        mask[at, width - len(row) :], ids[at, width - len(row) :] = 1, row
    # As `transformers` and Optimum make them.
    positions = np.where(mask == 0, 1, mask.cumsum(1) - 1)
    cuts = [0, *range(max(prefill, 1), width), width]
    return [
        {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
        }
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]


def no_past(spec: ModelSpec, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The cache's inputs at the first call."""
    empty = np.zeros((len(rows), spec.num_kv_heads, 0, spec.head_dim), np.float32)
    return dict.fromkeys(past_names(spec), empty)


def of_rows(logits: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The logits of all calls, without those of the padding."""
    found = np.concatenate(logits, axis=1)
    return [found[at, found.shape[1] - len(row) :] for at, row in enumerate(rows)]
