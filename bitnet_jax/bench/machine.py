"""The machine that a figure was taken on, as a record; what must agree to compare two figures.

Knows nothing of what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.pages import huge_pages, memory_available
from bitnet_jax.ops.native.library import status
from bitnet_jax.targets import detect

# Two runs with other values here are not of one machine. Versions may differ: whether a new one
# is slower is what a comparison asks.
SAME = ("processor", "architecture", "cores", "platform", "device", "devices", "instruction_set")
PACKAGES = ("bitnet-jax", "jax", "jaxlib", "numpy")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, devices, instruction sets, compiler, versions."""
    target, native, versions = detect.detect(), status(), detect.versions()
    return {
        **detect.machine(),
        "memory_available_bytes": memory_available(),
        "huge_pages": huge_pages(),
        "platform": target.platform,
        "device": target.kind,
        "devices": target.devices,
        "instruction_set": native.isa,
        "instruction_sets": list(native.usable_isas),
        "kernels": native.origin if native.available else native.reason,
        "compiler": detect.compiler(),
        "load_average": load_average(),
        "versions": {name: versions[name] for name in PACKAGES},
    }


def load_average() -> float | None:
    """Processes that wanted to run in the last minute; None where the system does not say."""
    import psutil

    try:
        return float(psutil.getloadavg()[0])
    except (AttributeError, OSError):
        return None


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In words, what keeps two machines from being one; empty if they are."""
    return [
        f"{name}: {one.get(name)} and {other.get(name)}"
        for name in SAME
        if one.get(name) != other.get(name)
    ]
