"""The checkpoint doctor as a record: every finding with its fix."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bitnet_jax.formats.doctor import ERROR, WARNING, examine_path
from bitnet_jax.formats.locate import locate
from bitnet_jax.formats.open import open_checkpoint

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
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Examines a model.

    Args:
      check_weights: tell of values: zero tensors, NaN, constant rows, checksums.
      check_quantization: tell of scales and digests.

    Raises:
      NoInput: there is no such file. What is wrong inside it is a finding.
      Unavailable, PermissionDenied, IOFailure: it could not be fetched.
    """
    place = locate(model, offline=offline, progress=progress)
    left_out = set()
    if not check_weights:
        left_out.add("weights")
    if not check_quantization:
        left_out.add("quantization")
    findings = [
        finding.to_json()
        for finding in examine_path(place)
        if CHECKS.get(finding.code.partition(".")[0]) not in left_out
    ]
    record: dict[str, Any] = {
        "model": str(model),
        "findings": findings,
        "counts": counts(findings),
    }
    if place.origin:
        record["source"] = dict(place.origin)
    if not any(finding["severity"] == "error" for finding in findings):
        record["digest"] = open_checkpoint(place).digest().to_json()
    return record


def counts(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many findings there are: by severity, and by code and severity."""
    codes: dict[str, dict[str, int]] = {}
    for finding in findings:
        of = codes.setdefault(finding["code"], dict.fromkeys(SEVERITIES, 0))
        of[finding["severity"]] += 1
    total = {name: sum(of[name] for of in codes.values()) for name in SEVERITIES}
    return {"severity": total, "code": codes}
