"""The public Python API; `import bitnet_jax as bj` gives the same names.

Everything the command line does is one of these functions. Each returns plain
records (dicts and dataclasses), prints nothing, and raises `BitnetError`s. A name
is fetched from its home on first use: converting a file imports no optax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_jax.analysis.debug import debug as debug
    from bitnet_jax.analysis.diff import diff as diff
    from bitnet_jax.analysis.inspect import inspect as inspect
    from bitnet_jax.bench.compare import bench_compare as bench_compare
    from bitnet_jax.bench.profile import bench_profile as bench_profile
    from bitnet_jax.bench.regression import bench_regression as bench_regression
    from bitnet_jax.bench.run import bench_run as bench_run
    from bitnet_jax.bench.validate import bench_validate as bench_validate
    from bitnet_jax.export.function import export_onnx as export_onnx
    from bitnet_jax.export.stablehlo_run import open_stablehlo as open_stablehlo
    from bitnet_jax.formats.checkpoint import Checkpoint as Checkpoint
    from bitnet_jax.formats.onnx_function import OnnxFunction as OnnxFunction
    from bitnet_jax.formats.onnx_function import from_onnx as from_onnx
    from bitnet_jax.formats.open import open_checkpoint as open_checkpoint
    from bitnet_jax.ir.spec import ModelSpec as ModelSpec
    from bitnet_jax.ir.stages import dump_passes as dump_passes
    from bitnet_jax.models.cache import KVCache as KVCache
    from bitnet_jax.models.families import load_plugin as load_plugin
    from bitnet_jax.models.family import Family as Family
    from bitnet_jax.models.huggingface import ConfigKey as ConfigKey
    from bitnet_jax.models.huggingface import HuggingFace as HuggingFace
    from bitnet_jax.models.parameter import Parameter as Parameter
    from bitnet_jax.passes.explain import Explanation as Explanation
    from bitnet_jax.passes.explain import explain as explain
    from bitnet_jax.passes.pack import pack as pack
    from bitnet_jax.passes.packed import Packed as Packed
    from bitnet_jax.passes.plan import KeptFloatWarning as KeptFloatWarning
    from bitnet_jax.passes.recipe import transform as transform
    from bitnet_jax.passes.recipes.hadamard import Hadamard as Hadamard
    from bitnet_jax.passes.recipes.keep_n_of_m import KeepNofM as KeepNofM
    from bitnet_jax.passes.recipes.learned_scale import LearnedScale as LearnedScale
    from bitnet_jax.passes.recipes.quantized_activations import (
        QuantizedActivations as QuantizedActivations,
    )
    from bitnet_jax.passes.recipes.sub_norm import SubNorm as SubNorm
    from bitnet_jax.passes.tap import tap as tap
    from bitnet_jax.passes.transform import ternarize as ternarize
    from bitnet_jax.quant.digest import Digest as Digest
    from bitnet_jax.quant.rules import Rule as Rule
    from bitnet_jax.quant.tensor import QuantTensor as QuantTensor
    from bitnet_jax.report.page import report_page as report_page
    from bitnet_jax.runtime.model import Generation as Generation
    from bitnet_jax.runtime.model import Model as Model
    from bitnet_jax.runtime.model import load as load
    from bitnet_jax.workflows.compare import compare as compare
    from bitnet_jax.workflows.convert import convert as convert
    from bitnet_jax.workflows.convert import converted as converted
    from bitnet_jax.workflows.create import create as create
    from bitnet_jax.workflows.create import list_architectures as list_architectures
    from bitnet_jax.workflows.digest import digest as digest
    from bitnet_jax.workflows.edit import edit as edit
    from bitnet_jax.workflows.environment import environment as environment
    from bitnet_jax.workflows.export import export_model as export_model
    from bitnet_jax.workflows.kernels import build_kernels as build_kernels
    from bitnet_jax.workflows.publish import publish as publish
    from bitnet_jax.workflows.quant_analyze import quant_analyze as quant_analyze
    from bitnet_jax.workflows.quant_convert import quant_convert as quant_convert
    from bitnet_jax.workflows.quant_convert import quant_converted as quant_converted
    from bitnet_jax.workflows.quant_validate import quant_validate as quant_validate
    from bitnet_jax.workflows.quickstart import quickstart as quickstart
    from bitnet_jax.workflows.train import train_qat as train_qat
    from bitnet_jax.workflows.train import train_start as train_start
    from bitnet_jax.workflows.validate import validate as validate

# Public name -> the module it lives in.
HOMES: dict[str, str] = {
    "Checkpoint": "formats.checkpoint",
    "ConfigKey": "models.huggingface",
    "Digest": "quant.digest",
    "Explanation": "passes.explain",
    "Family": "models.family",
    "Generation": "runtime.model",
    "Hadamard": "passes.recipes.hadamard",
    "HuggingFace": "models.huggingface",
    "KVCache": "models.cache",
    "KeepNofM": "passes.recipes.keep_n_of_m",
    "KeptFloatWarning": "passes.plan",
    "LearnedScale": "passes.recipes.learned_scale",
    "Model": "runtime.model",
    "ModelSpec": "ir.spec",
    "OnnxFunction": "formats.onnx_function",
    "Packed": "passes.packed",
    "Parameter": "models.parameter",
    "QuantTensor": "quant.tensor",
    "QuantizedActivations": "passes.recipes.quantized_activations",
    "Rule": "quant.rules",
    "SubNorm": "passes.recipes.sub_norm",
    "bench_compare": "bench.compare",
    "bench_profile": "bench.profile",
    "bench_regression": "bench.regression",
    "bench_run": "bench.run",
    "bench_validate": "bench.validate",
    "build_kernels": "workflows.kernels",
    "compare": "workflows.compare",
    "convert": "workflows.convert",
    "converted": "workflows.convert",
    "create": "workflows.create",
    "debug": "analysis.debug",
    "diff": "analysis.diff",
    "digest": "workflows.digest",
    "dump_passes": "ir.stages",
    "edit": "workflows.edit",
    "environment": "workflows.environment",
    "explain": "passes.explain",
    "export_model": "workflows.export",
    "export_onnx": "export.function",
    "from_onnx": "formats.onnx_function",
    "inspect": "analysis.inspect",
    "list_architectures": "workflows.create",
    "load": "runtime.model",
    "load_plugin": "models.families",
    "open_checkpoint": "formats.open",
    "open_stablehlo": "export.stablehlo_run",
    "pack": "passes.pack",
    "publish": "workflows.publish",
    "quant_analyze": "workflows.quant_analyze",
    "quant_convert": "workflows.quant_convert",
    "quant_converted": "workflows.quant_convert",
    "quant_validate": "workflows.quant_validate",
    "quickstart": "workflows.quickstart",
    "report_page": "report.page",
    "tap": "passes.tap",
    "ternarize": "passes.transform",
    "train_qat": "workflows.train",
    "train_start": "workflows.train",
    "transform": "passes.recipe",
    "validate": "workflows.validate",
}

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
    if name not in HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"bitnet_jax.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
