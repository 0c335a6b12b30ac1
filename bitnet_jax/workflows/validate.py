"""The checkpoint doctor as a record: every finding with its fix."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bitnet_jax.core.errors import UsageError
from bitnet_jax.formats.doctor import ERROR, WARNING, examine_path
from bitnet_jax.formats.locate import locate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.workflows.check_receipt import check_receipt

# Which kind of check a finding belongs to, by the first part of its code. What is in no
# row (a file that cannot be opened, a missing tokenizer) is told whatever was asked.
CHECKS = {
    "weights": "weights",
    "tensor": "weights",
    "scale": "quantization",
    "digest": "quantization",
}


SEVERITIES = (ERROR, WARNING)


def validate(
    model: str | os.PathLike,
    *,
    check_weights: bool = True,
    check_quantization: bool = True,
    receipt: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    probe: bool = True,
    text: str | os.PathLike | None = None,
    calibration: str | os.PathLike | None = None,
    jobs: int | None = None,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Examines a model.

    Args:
      check_weights: tell of values: zero tensors, NaN, constant rows, checksums.
      check_quantization: tell of scales and digests.
      receipt: of the conversion that made it: every claim is derived again, and what does not
        hold is a finding; the record then has ``receipt`` (`check_receipt`).
      source: with `receipt`: the model that it was made from.
      probe: with `receipt`: run both models, where the receipt says that this was done.
      text, calibration: with `receipt`: as `check_receipt` takes them.
      jobs: with `receipt`: threads; None: one for each processor it may use.

    Raises:
      UsageError: one of `receipt` and `source` without the other (``validate.receipt``).
      NoInput: there is no such file. What is wrong inside it is a finding.
      Unavailable, PermissionDenied, IOFailure: it could not be fetched.
    """
    if (receipt is None) != (source is None):
        given, other = ("source", "receipt") if receipt is None else ("receipt", "source")
        raise UsageError(
            "validate.receipt",
            f"--{given} was given without --{other}",
            "a receipt is checked against both models: --receipt FILE --source MODEL",
        )
    place = locate(model, offline=offline, progress=progress)
    left_out = set()
    if not check_weights:
        left_out.add("weights")
    if not check_quantization:
        left_out.add("quantization")
    findings = []
    if len(left_out) < 2 or receipt is None:
        findings = [
            finding.to_json()
            for finding in examine_path(place)
            if CHECKS.get(finding.code.partition(".")[0]) not in left_out
        ]
    record: dict[str, Any] = {"model": str(model)}
    if receipt is not None and source is not None:
        record["receipt"] = check_receipt(
            model, receipt, source, probe=probe, text=text, calibration=calibration, jobs=jobs,
            offline=offline, progress=progress,
        )  # fmt: skip
        findings += record["receipt"].pop("findings")
    record |= {
        "findings": findings,
        "counts": counts(findings),
    }
    if place.origin:
        record["source"] = dict(place.origin)
    if not any(finding["severity"] == "error" for finding in findings):
        record["digest"] = open_checkpoint(place, check=True).digest().to_json()
    return record


def counts(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many findings there are: by severity, and by code and severity."""
    codes: dict[str, dict[str, int]] = {}
    for finding in findings:
        of = codes.setdefault(finding["code"], dict.fromkeys(SEVERITIES, 0))
        of[finding["severity"]] += 1
    total = {name: sum(of[name] for of in codes.values()) for name in SEVERITIES}
    return {"severity": total, "code": codes}
