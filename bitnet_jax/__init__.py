"""bitnet-jax: ternary language models in JAX.

The public names live in `bitnet_jax.api` and are fetched on first use, so that
`import bitnet_jax` alone imports neither jax nor numpy nor onnx. This file knows the
names and nothing else.
"""

from __future__ import annotations

import importlib
from typing import Any

# Kept by hand, so that `dir()` and star imports answer without importing jax;
# tests/contracts/test_lazy_import.py compares it with `bitnet_jax.api.__all__`.
__all__ = (
    "Checkpoint",
    "ConfigKey",
    "Digest",
    "Explanation",
    "Family",
    "Generation",
    "Hadamard",
    "HuggingFace",
    "KVCache",
    "KeepNofM",
    "KeptFloatWarning",
    "LearnedScale",
    "Model",
    "ModelSpec",
    "OnnxFunction",
    "Packed",
    "Parameter",
    "QuantTensor",
    "QuantizedActivations",
    "Rule",
    "SubNorm",
    "bench_compare",
    "bench_profile",
    "bench_regression",
    "bench_run",
    "bench_validate",
    "build_kernels",
    "compare",
    "convert",
    "converted",
    "create",
    "debug",
    "diff",
    "digest",
    "dump_passes",
    "edit",
    "environment",
    "explain",
    "export_model",
    "export_onnx",
    "from_onnx",
    "inspect",
    "list_architectures",
    "load",
    "load_plugin",
    "open_checkpoint",
    "open_stablehlo",
    "pack",
    "publish",
    "quant_analyze",
    "quant_convert",
    "quant_converted",
    "quant_validate",
    "quickstart",
    "report_page",
    "tap",
    "ternarize",
    "train_qat",
    "train_start",
    "transform",
    "validate",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bitnet-jax")
    if name in __all__:
        return getattr(importlib.import_module("bitnet_jax.api"), name)
    raise AttributeError(f"module `bitnet_jax` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
