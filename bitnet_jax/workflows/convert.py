"""Converting a model, with proof: digests, changed scales, a probe of the logits.

The output is opened again and everything about it is computed from what stands on
the disk, before it gets its name. Knows no format by name: `formats` reads and writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, BitnetError, InternalError, UsageError, did_you_mean
from bitnet_jax.core.paths import atomic_file, check_output
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.doctor import PASSABLE, Finding, blocking, examine
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import (
    FORMATS,
    check_kind,
    check_save,
    format_of,
    save_checkpoint,
)
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
      UsageError: `allow` names what cannot be passed.
      BadData: the doctor found an error that is not allowed.
      InternalError: the output would not hold the same trits (nothing is left behind).
      CannotCreate, IOFailure, …: from writing.
    """
    _check_allow(allow)
    output = Path(output)
    checkpoint = open_checkpoint(source)
    # What can be refused is refused now, not after minutes of reading.
    check_save(checkpoint, output, format=format, encoding=encoding, force=force)
    receipt = receipt_path(output, format)
    if not receipt.is_relative_to(output):
        check_output(receipt, force=force)
        check_kind(receipt, directory=False)
    findings = examine(checkpoint)
    _stop_on(blocking(findings, tuple(allow)), checkpoint)
    before = checkpoint.digest()
    proof: dict[str, Any] = {}

    def prove(temporary: Path) -> None:
        written = open_checkpoint(temporary)
        after = written.digest()
        if after.trits != before.trits:
            raise InternalError(
                "convert.trits_changed",
                f"`{output}` would hold other trits than `{source}`: {after.trits} != "
                f"{before.trits}; it was not written",
                "this is a bug: please report it",
            )
        proof["digest_after"] = after.to_json()
        proof["scales_changed"] = [] if after == before else scales_changed(checkpoint, written)
        proof["max_logit_difference"] = _probe(checkpoint, written) if probe else None

    saved = save_checkpoint(
        checkpoint, output, format=format, encoding=encoding, force=force, prove=prove
    )
    record = {
        "source": str(source),
        "source_format": checkpoint.source.format,
        "format": saved.format,
        "encoding": saved.encoding,
        "digest_before": before.to_json(),
        **proof,
        "findings": [finding.to_json() for finding in findings],
        "allowed": sorted(set(allow) & {finding.code for finding in findings}),
        "outputs": [str(path) for path in saved.outputs],
        "warnings": [*checkpoint.warnings, *saved.warnings],
    }
    text = json.dumps({"schema": "bitnet/1", **record}, indent=2, sort_keys=True)
    with atomic_file(receipt) as stream:
        stream.write(text.encode() + b"\n")
    record["receipt"] = str(receipt)
    return record


def converted(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    encoding: str | None = None,
) -> dict[str, Any] | None:
    """Returns the record of this conversion if it was made before and still holds, else None.

    It holds while source and output have the digests that the receipt states; both are read.

    Raises:
      NoInput, BadData, …: the source cannot be opened.
    """
    output = Path(output)
    receipt = receipt_path(output, format)
    try:
        record = json.loads(receipt.read_bytes())
        claimed = record["digest_before"], record["digest_after"]
        asked = (str(source), format_of(output, format), encoding or record["encoding"])
        if asked != (record["source"], record["format"], record["encoding"]):
            return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # no receipt of ours
    before = open_checkpoint(source).digest().to_json()
    try:
        after = open_checkpoint(output).digest().to_json()
    except BitnetError:
        return None
    if (before, after) != claimed:
        return None
    return {**{k: v for k, v in record.items() if k != "schema"}, "receipt": str(receipt)}


def receipt_path(output: Path, format: str | None = None) -> Path:
    """Where the record of a conversion is kept: in the folder written, or beside the file."""
    if FORMATS[format_of(output, format)].directory:
        return output / "receipt.json"
    return output.with_suffix(".receipt.json")


def _check_allow(allow: Sequence[str]) -> None:
    for code in allow:
        if code not in PASSABLE:
            raise UsageError(
                "convert.allow",
                f"`{code}` is no finding that a conversion can go on past",
                did_you_mean(code, PASSABLE),
            )


def _stop_on(findings: Sequence[Finding], checkpoint: Checkpoint) -> None:
    if findings:
        first, more = findings[0], len(findings) - 1
        where = f"`{checkpoint.source.path}`" + (f", `{first.tensor}`" if first.tensor else "")
        raise BadData(
            first.code,
            f"{where}: {first.message}" + (f" (and {more} more findings)" if more else ""),
            first.fix + (f"; or pass --allow {first.code}" if first.code in PASSABLE else ""),
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
