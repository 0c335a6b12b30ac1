"""What this machine has: the one module that asks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from bitnet_jax.core.system import usable_cores
from bitnet_jax.targets.target import Target

# Distribution -> the extra that brings it; None: a core dependency.
PACKAGES: dict[str, str | None] = {
    "jax": None,
    "jaxlib": None,
    "flax": None,
    "optax": None,
    "orbax-checkpoint": None,
    "numpy": None,
    "safetensors": None,
    "onnx": None,
    "tokenizers": None,
    "transformers": "hf",
    "torch": "hf",
    "gguf": "gguf",
    "huggingface-hub": "hub",
    "gcsfs": "gcs",
    "s3fs": "s3",
}
COMPILERS = ("c++", "g++", "clang++")


def detect() -> Target:
    """The default device of this process."""
    import jax

    devices = jax.devices()
    return Target(devices[0].platform, len(devices), devices[0].device_kind)


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system: what a benchmark must name."""
    import psutil

    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """Version of each package of interest, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in ("bitnet-jax", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def compiler() -> str | None:
    """Path of the C++ compiler that would build the kernels, or None."""
    asked = os.environ.get("CXX")
    return next(
        (path for name in (asked, *COMPILERS) if name and (path := shutil.which(name))), None
    )


def processor_features() -> str:
    """What compiled programs may use of this processor, in one line."""
    return _told_of_processor("flags") or _told_of_processor("features") or _processor()


def _processor() -> str:
    return _told_of_processor("model name") or platform.processor() or "unknown"


def _told_of_processor(name: str) -> str | None:
    """The first line `name` of `/proc/cpuinfo`; None where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.lower().startswith(name):
                    return line.partition(":")[2].strip()
    except OSError:
        return None  # no procfs outside Linux
    return None
