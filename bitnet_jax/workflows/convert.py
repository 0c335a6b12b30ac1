"""Converting a model, with proof: digests, changed scales, a probe of the logits.

The output is opened again and everything about it is computed from what stands on
the disk. Knows no format by name: `formats` reads and writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, InternalError
from bitnet_jax.core.paths import atomic_file
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.doctor import Finding, blocking, examine
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.quant.digest import Digest
from bitnet_jax.runtime.model import Model
from bitnet_jax.workflows.parity import compare_logits

PROBE_TOKENS = 24


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    encoding: str | None = None,
    allow: Sequence[str] = (),
    probe: bool = True,
    force: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Converts `source` to `output` and proves what was written.

    Args:
      format: a key of the formats table; by `output`'s suffix if None.
      encoding: the format's variant; the source's where the format has it.
      allow: codes of findings that do not stop the conversion.
      probe: run both models on a few tokens and compare the logits.

    Raises:
      BadData: the doctor found an error that is not allowed.
      InternalError: the output does not hold the same trits (nothing is left behind).
      CannotCreate, IOFailure, …: from writing.
    """
    checkpoint = open_checkpoint(source)
    findings = examine(checkpoint)
    _stop_on(blocking(findings, tuple(allow)), checkpoint)
    before = checkpoint.digest()
    saved = save_checkpoint(checkpoint, output, format=format, encoding=encoding, force=force)
    written = open_checkpoint(saved.path)
    after = written.digest()
    if after.trits != before.trits:
        raise InternalError(
            "convert.trits_changed",
            f"`{saved.path}` holds other trits than `{source}`: {after.trits} != {before.trits}",
            "this is a bug: please report it, and do not use the output",
        )
    changed = [] if after == before else scales_changed(checkpoint, written)
    record = {
        "source": str(source),
        "source_format": checkpoint.source.format,
        "format": saved.format,
        "encoding": saved.encoding,
        "digest_before": before.to_json(),
        "digest_after": after.to_json(),
        "scales_changed": changed,
        "max_logit_difference": _probe(checkpoint, written) if probe else None,
        "findings": [finding.to_json() for finding in findings],
        "allowed": sorted(set(allow) & {finding.code for finding in findings}),
        "outputs": [str(path) for path in saved.outputs],
        "warnings": [*checkpoint.warnings, *saved.warnings],
    }
    record["receipt"] = str(_write_receipt(record, saved.path, before))
    return record


def _stop_on(findings: Sequence[Finding], checkpoint: Checkpoint) -> None:
    if findings:
        first, more = findings[0], len(findings) - 1
        where = f"`{checkpoint.source.path}`" + (f", `{first.tensor}`" if first.tensor else "")
        raise BadData(
            first.code,
            f"{where}: {first.message}" + (f" (and {more} more findings)" if more else ""),
            f"{first.fix}; or pass it with --allow {first.code}",
        )


def scales_changed(before: Checkpoint, after: Checkpoint) -> list[dict[str, Any]]:
    """The ternary tensors whose scales differ, with the largest difference in float32 ULPs."""
    out: list[dict[str, Any]] = []
    for name, entry in before.entries.items():
        if not entry.ternary:
            continue
        old = np.asarray(before.read(name).scale, np.float32).reshape(-1)  # type: ignore[union-attr]
        new = np.asarray(after.read(name).scale, np.float32).reshape(-1)  # type: ignore[union-attr]
        if old.shape != new.shape:
            out.append({"name": name, "ulps": None, "before": old.size, "after": new.size})
        elif not np.array_equal(old, new):
            # Positive floats order as their bits do, so the bits' difference counts ULPs.
            steps = np.abs(old.view(np.int32).astype(np.int64) - new.view(np.int32))
            worst = int(steps.argmax())
            out.append(
                {
                    "name": name,
                    "ulps": int(steps[worst]),
                    "before": float(old[worst]),
                    "after": float(new[worst]),
                }
            )
    return out


def _probe(before: Checkpoint, after: Checkpoint) -> float:
    """Largest logit difference on fixed random tokens, relative to the largest logit."""
    length = min(PROBE_TOKENS, before.spec.max_positions)
    tokens = np.random.default_rng(0).integers(0, before.spec.vocab_size, (1, length))
    # One model at a time: both at once would double the memory.
    reference = Model(before).logits(tokens)
    return compare_logits(reference, Model(after).logits(tokens)).max_logit_difference


def _write_receipt(record: Mapping[str, Any], output: Path, digest: Digest) -> Path:
    path = output / "receipt.json" if output.is_dir() else output.with_suffix(".receipt.json")
    text = json.dumps({"schema": "bitnet/1", **record}, indent=2, sort_keys=True)
    with atomic_file(path) as stream:
        stream.write(text.encode() + b"\n")
    return path
