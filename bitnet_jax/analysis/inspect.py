"""What is in a model file: layers, trits, scales, bits really stored, where it runs.

Reads one tensor at a time; runs nothing.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from bitnet_jax.analysis.runs_in import runs_in
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.model_files import files_of
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.quant.digest import DigestBuilder
from bitnet_jax.quant.tensor import TERNARY, QuantTensor


def inspect(
    path: str | os.PathLike, *, offline: bool | None = None, progress: Any = None
) -> dict[str, Any]:
    """The record of `bitnet model inspect`.

    ``bits_per_weight`` is what the files store for the quantized matrices, scales included (16 and
    more of one in half floats); ``packed_bits_per_weight`` what they take in memory, packed.

    Raises:
      NoInput, BadData: as `open_checkpoint`; a damaged tensor is named.
    """
    checkpoint = open_checkpoint(path, offline=offline, progress=progress)
    spec = checkpoint.spec
    rows: dict[str, dict[str, Any]] = {}
    builder = DigestBuilder()
    packed_bytes = float_bytes = 0
    for name, value in checkpoint.tensors():
        rows[name] = _row(checkpoint, name, value)
        if isinstance(value, QuantTensor):
            builder.add(name, value)
            packed_bytes += value.nbytes
        else:
            float_bytes += 4 * value.size
    layers = [rows[name] for name in checkpoint.entries]
    parameters = sum(math.prod(row["shape"]) for row in layers)
    ternary = sum(math.prod(row["shape"]) for row in layers if "trits" in row)
    quantized = sum(math.prod(row["shape"]) for row in layers if "kind" in row)
    stored = stored_bytes(checkpoint)
    return {
        "path": str(path),
        **({"source": dict(checkpoint.source.origin)} if checkpoint.source.origin else {}),
        "format": checkpoint.source.format,
        "encoding": checkpoint.source.encoding,
        "digest": builder.result().to_json(),
        "architecture": spec.to_json(),
        "parameters": parameters,
        "ternary_parameters": ternary,
        "trits": _shares(layers),
        "quantized_parameters": quantized,
        "bits_per_weight": stored_bits(checkpoint),
        "packed_bits_per_weight": 8 * packed_bytes / quantized if quantized else None,
        "file_bytes": stored,
        "file_bits_per_parameter": 8 * stored / parameters,
        "memory_bytes": packed_bytes + float_bytes,
        "tokenizer": checkpoint.tokenizer is not None,
        "chat_template": bool(checkpoint.tokenizer and checkpoint.tokenizer.chat_template),
        "runs_in": runs_in(checkpoint, {row["kind"] for row in layers if "kind" in row}),
        "layers": layers,
        "warnings": list(checkpoint.warnings),
    }


def _row(checkpoint: Checkpoint, name: str, value: np.ndarray | QuantTensor) -> dict[str, Any]:
    entry = checkpoint.entries[name]
    row: dict[str, Any] = {
        "name": name,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "stored_as": entry.stored_as,
    }
    if not isinstance(value, QuantTensor):
        return row
    total = math.prod(value.shape)
    row["kind"] = value.kind
    if value.kind == TERNARY:
        counts = np.bincount((value.trits() + 1).reshape(-1).astype(np.uint8), minlength=3)
        row["trits"] = {
            name: int(count) / total
            for name, count in zip(("minus", "zero", "plus"), counts, strict=True)
        }
    scale = np.asarray(value.scale)
    row["bits_per_weight"] = None if entry.nbytes is None else 8 * entry.nbytes / total
    row["packed_bits_per_weight"] = 8 * value.nbytes / total
    row["scale"] = float(scale) if scale.size == 1 else float(np.median(scale))
    row["scale_kind"] = value.scale_kind
    row["scale_spread"] = [float(scale.min()), float(scale.max())]
    return row


def _shares(layers: list[dict[str, Any]]) -> dict[str, float] | None:
    """The shares of -1, 0 and +1 among all ternary weights; None where there are none."""
    ternary = [(row["trits"], math.prod(row["shape"])) for row in layers if "trits" in row]
    total = sum(size for _, size in ternary)
    if not total:
        return None
    # Each share is a count over a size: the counts are whole again.
    return {
        name: sum(round(trits[name] * size) for trits, size in ternary) / total
        for name in ("minus", "zero", "plus")
    }


def stored_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the model on disk: of every file that it was read from."""
    source = checkpoint.source
    return sum(file.stat().st_size for file in files_of(source.path, source.detail).values())


def stored_bits(checkpoint: Checkpoint) -> float | None:
    """Bits that its files store for each quantized weight: of all such matrices, codes and scales.

    None where it has no such matrix, or is in no file.
    """
    held = [entry for entry in checkpoint.entries.values() if entry.ternary]
    if not held or any(entry.nbytes is None for entry in held):
        return None
    return 8 * sum(e.nbytes or 0 for e in held) / sum(math.prod(e.shape) for e in held)
