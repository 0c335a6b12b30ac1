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
import onnx

from bitnet_jax.export import pieces
from bitnet_jax.export.decoder import past_names, present_names
from bitnet_jax.export.pieces import Piece, check_cut, cut, piece_model, weights
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
    past, found = _no_past(spec, rows), []
    for feed in _calls(rows, prefill):
        logits, *present = running.run(None, feed | past)
        past = dict(zip(past, present, strict=True))
        found.append(logits)
    return _of_rows(found, rows)


def file_logits(
    path: Path, spec: ModelSpec, rows: Sequence[np.ndarray], prefill: int
) -> tuple[list[np.ndarray], int]:
    """As `row_logits`, of a file; and how many pieces it was run in.

    A file whose weights are few is run as it stands. Of others the graph is cut (`export.pieces`),
    and each piece runs through all calls in a session of its own before the next is opened: no
    more than a piece's weights are in memory.

    Raises:
      InternalError: the pieces are not the graph (``export.pieces``).
    """
    model = onnx.load(str(path), load_external_data=False)
    carried = dict(zip(past_names(spec), present_names(spec), strict=True))
    parts = cut(model, carried)
    if len(parts) == 1:
        return row_logits(session(path), spec, rows, prefill), 1
    check_cut(model, parts)
    past = _no_past(spec, rows)
    values = [dict(feed) for feed in _calls(rows, prefill)]
    for at, part in enumerate(parts):
        _run_part(model, part, values, {carried[name]: name for name in past}, past, path.parent)
        later = {"logits"}.union(*(other.inputs for other in parts[at + 1 :]))
        values = [{name: call[name] for name in later & call.keys()} for call in values]
    return _of_rows([call.pop("logits") for call in values], rows), len(parts)


# Otherwise a session is what users have: without prepacking, say, MatMulNBits computes otherwise.
_FOLDER = "session.model_external_initializers_file_folder_path"


def _run_part(
    model: onnx.ModelProto,
    part: Piece,
    values: Sequence[dict[str, np.ndarray]],
    carried: Mapping[str, str],
    past: Mapping[str, np.ndarray],
    folder: Path,
) -> None:
    """Adds what a piece makes to the values of each call, in the order of the calls.

    Args:
      carried: results that are inputs of the next call, by name.
      past: what these inputs are at the first.
    """
    known = [past | call for call in values]
    entries = {_FOLDER: str(folder)}
    slices = _slices(model, part)
    for rows in slices:
        made = piece_model(model, part, known, rows).SerializeToString()
        running = session(made, entries, enable_cpu_mem_arena=False)
        before: Mapping[str, np.ndarray] = past
        for call in values:
            feed = {name: {**before, **call}[name] for name in part.inputs}
            found = dict(zip(part.outputs, running.run(list(part.outputs), feed), strict=True))
            before = {carried[name]: found[name] for name in found if name in carried}
            if rows is None:
                call.update(found)
                continue
            ((name, columns),) = found.items()
            if name not in call:
                call[name] = np.empty((*columns.shape[:-1], slices[-1][1]), columns.dtype)
            call[name][..., slice(*rows)] = columns


def _slices(model: onnx.ModelProto, part: Piece) -> list[Any]:
    """The rows that a piece is run with, one after another; None where it has no table."""
    if part.table is None:
        return [None]
    count, width = weights(model)[part.table].dims
    step = max(pieces.PIECE_BYTES // (4 * width), 1)
    return [(start, min(start + step, count)) for start in range(0, count, step)]


# ------------------------------------------------------------------------------------ the calls
def _calls(rows: Sequence[np.ndarray], prefill: int) -> list[dict[str, np.ndarray]]:
    """The inputs of each call but the cache."""
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


def _no_past(spec: ModelSpec, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    empty = np.zeros((len(rows), spec.num_kv_heads, 0, spec.head_dim), np.float32)
    return dict.fromkeys(past_names(spec), empty)


def _of_rows(logits: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The logits of all calls, without those of the padding."""
    found = np.concatenate(logits, axis=1)
    return [found[at, found.shape[1] - len(row) :] for at, row in enumerate(rows)]
