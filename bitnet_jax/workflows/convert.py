"""Converting a model, with proof: digests, changed scales, a probe of the logits.

The output is opened again and everything about it is computed from what stands on
the disk, before it gets its name. Knows no format by name: `formats` reads and writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, BitnetError, InternalError, UsageError, did_you_mean
from bitnet_jax.core.paths import atomic_file
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.deliver import Delivery, delivered
from bitnet_jax.formats.doctor import PASSABLE, Finding, blocking, examine
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.receipts import check_receipt, receipt_path
from bitnet_jax.formats.save import (
    Saved,
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
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Converts `source` to `output` and proves what was written.

    Args:
      source, output: paths, or addresses in a store: fetched before, uploaded after.
      format: a key of the formats table; by `output`'s suffix if None.
      encoding: the format's variant; the source's where the format has it.
      allow: codes of findings that do not stop the conversion.
      probe: run both models on a few tokens and compare the logits.
      offline: fetch nothing; None: as HF_HUB_OFFLINE says.

    Raises:
      UsageError: `allow` names what cannot be passed.
      BadData: the doctor found an error that is not allowed.
      InternalError: the output would not hold the same trits (nothing is left behind).
      CannotCreate, IOFailure, …: from writing.
    """
    _check_allow(allow)
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    with delivered(output, format=format, force=force, **reach) as delivery:
        checkpoint = open_checkpoint(source, **reach)
        record = convert_checkpoint(checkpoint, delivery, format, encoding, allow, probe, force)
    return record


def convert_checkpoint(
    checkpoint: Checkpoint,
    delivery: Delivery,
    format: str | None,
    encoding: str | None,
    allow: Sequence[str],
    probe: bool,
    force: bool,
    also: Callable[[Checkpoint], Mapping[str, Any]] = lambda written: {},
) -> dict[str, Any]:
    """As `convert`, for an open checkpoint and where it goes.

    Args:
      also: is given the output opened again, before it has its name; what it returns stands in
        the record and the receipt too.
    """
    output = delivery.path
    # What can be refused is refused now, not after minutes of reading.
    check_save(checkpoint, output, format=format, encoding=encoding, force=force)
    receipt = receipt_path(output, format)
    inside = receipt.is_relative_to(output)
    if not inside:
        check_receipt(output, format, force=force)
        check_kind(receipt, directory=False)
    findings = examine(checkpoint)
    _stop_on(blocking(findings, tuple(allow)), checkpoint)
    before = checkpoint.digest()
    record: dict[str, Any] = {}

    receipted = inside

    def write_receipt() -> None:
        nonlocal receipted
        with atomic_file(receipt, force=check_receipt(output, format, force=force)) as stream:
            stream.write(_receipt(record))
        receipted = True

    def prove(temporary: Path, saved: Saved) -> None:
        written = open_checkpoint(temporary)
        after = written.digest()
        if after.trits != before.trits:
            raise InternalError(
                "convert.trits_changed",
                f"`{output}` would hold other trits than `{checkpoint.source.path}`: "
                f"{after.trits} != {before.trits}; it was not written",
                "this is a bug: please report it",
            )
        record.update(
            source=checkpoint.source.to_json(),
            source_format=checkpoint.source.format,
            format=saved.format,
            encoding=saved.encoding,
            digest_before=before.to_json(),
            digest_after=after.to_json(),
            scales_changed=[] if after == before else scales_changed(checkpoint, written),
            max_logit_difference=_probe(checkpoint, written) if probe else None,
            findings=[finding.to_json() for finding in findings],
            allowed=sorted(set(allow) & {finding.code for finding in findings}),
            outputs=[delivery.named(path) for path in saved.outputs],
            warnings=[*checkpoint.warnings, *saved.warnings],
        )
        record.update(also(written))
        if inside:  # it gets its place with the folder
            (temporary / receipt.name).write_bytes(_receipt(record))
        elif output.exists():  # killed from here on, the new file lacks a receipt
            receipt.unlink(missing_ok=True)
        else:  # killed from here on, the receipt lacks its file: the next run makes both
            write_receipt()

    try:
        save_checkpoint(
            checkpoint, output, format=format, encoding=encoding, force=force, prove=prove
        )
    except BaseException:
        if receipted and not inside and not output.exists():
            receipt.unlink(missing_ok=True)
        raise
    if not receipted:
        write_receipt()
    delivery.beside.append(receipt)
    return record | {"receipt": delivery.named(receipt)}


def _receipt(record: dict[str, Any]) -> bytes:
    text = json.dumps({"schema": "bitnet/1", **record}, indent=2, sort_keys=True)
    return text.encode() + b"\n"


def converted(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    encoding: str | None = None,
    offline: bool | None = None,
) -> dict[str, Any] | None:
    """Returns the record of this conversion if it was made before and still holds, else None.

    It holds while source and output have the digests that the receipt states; both are read. An
    output in a store is never looked for: it would have to be fetched.

    Raises:
      NoInput, BadData, …: the source cannot be opened.
    """
    output = Path(output)
    receipt = receipt_path(output, format)
    try:
        record = json.loads(receipt.read_bytes())
        claimed = record["digest_before"], record["digest_after"]
        asked = (format_of(output, format), encoding or record["encoding"])
        if asked != (record["format"], record["encoding"]):
            return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # no receipt of ours
    checkpoint = open_checkpoint(source, offline=offline)
    if checkpoint.source.to_json() != record.get("source"):
        return None
    before = checkpoint.digest().to_json()
    try:
        after = open_checkpoint(output).digest().to_json()
    except BitnetError:
        return None
    if (before, after) != claimed:
        return None
    return {**{k: v for k, v in record.items() if k != "schema"}, "receipt": str(receipt)}


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
