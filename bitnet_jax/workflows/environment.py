"""The record of `bitnet dev check`: versions, devices, kernels, what is missing."""

from __future__ import annotations

from typing import Any

from bitnet_jax.models.families import every_family
from bitnet_jax.ops.native import library
from bitnet_jax.ops.select import select
from bitnet_jax.targets import detect


def environment() -> dict[str, Any]:
    """What this installation can do, paste-ready, with the line that mends each gap."""
    target = detect.detect()
    versions = detect.versions()
    status = library.status()
    choice = select("ternary_matmul", target.platform)
    missing = [
        {"name": name, "mend": f"pip install 'bitnet-jax[{extra}]'"}
        for name, extra in detect.PACKAGES.items()
        if versions[name] is None and extra is not None
    ]
    if not status.available:
        missing.append({"name": "native CPU kernels", "mend": status.hint or str(status.reason)})
    listed, problems = every_family()
    return {
        "versions": versions,
        "machine": detect.machine(),
        "device": {"platform": target.platform, "kind": target.kind, "count": target.devices},
        "compiler": detect.compiler(),
        "kernels": {
            "available": status.available,
            "instruction_set": status.isa,
            "usable": list(status.usable_isas),
            "library": status.path,
            "origin": status.origin,
            "reason": status.reason or status.passed_over,
        },
        "ternary_matmul": {"implementation": choice.implementation, "reason": choice.reason},
        "families": {row.family.name: row.source for row in listed},
        "missing": missing,
        "warnings": problems,
    }
