"""The public Python API; `import bitnet_jax as bj` gives the same names.

Everything the command line does is one of these functions. Each returns plain
records (dicts and dataclasses), prints nothing, and raises `BitnetError`s. A name
is fetched from its home on first use: converting a file imports no optax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_jax.analysis.inspect import inspect as inspect
    from bitnet_jax.formats.checkpoint import Checkpoint as Checkpoint
    from bitnet_jax.formats.open import open_checkpoint as open_checkpoint
    from bitnet_jax.passes.pack import pack as pack
    from bitnet_jax.passes.packed import Packed as Packed
    from bitnet_jax.passes.transform import ternarize as ternarize
    from bitnet_jax.quant.digest import Digest as Digest
    from bitnet_jax.quant.rules import Rule as Rule
    from bitnet_jax.quant.tensor import QuantTensor as QuantTensor
    from bitnet_jax.runtime.model import Generation as Generation
    from bitnet_jax.runtime.model import Model as Model
    from bitnet_jax.runtime.model import load as load
    from bitnet_jax.workflows.convert import convert as convert
    from bitnet_jax.workflows.create import create as create
    from bitnet_jax.workflows.create import list_architectures as list_architectures
    from bitnet_jax.workflows.digest import digest as digest
    from bitnet_jax.workflows.environment import environment as environment
    from bitnet_jax.workflows.kernels import build_kernels as build_kernels
    from bitnet_jax.workflows.quickstart import quickstart as quickstart
    from bitnet_jax.workflows.train import train_qat as train_qat
    from bitnet_jax.workflows.train import train_start as train_start
    from bitnet_jax.workflows.validate import validate as validate

# Public name -> the module it lives in.
HOMES: dict[str, str] = {
    "Checkpoint": "formats.checkpoint",
    "Digest": "quant.digest",
    "Generation": "runtime.model",
    "Model": "runtime.model",
    "Packed": "passes.packed",
    "QuantTensor": "quant.tensor",
    "Rule": "quant.rules",
    "build_kernels": "workflows.kernels",
    "convert": "workflows.convert",
    "create": "workflows.create",
    "digest": "workflows.digest",
    "environment": "workflows.environment",
    "inspect": "analysis.inspect",
    "list_architectures": "workflows.create",
    "load": "runtime.model",
    "open_checkpoint": "formats.open",
    "pack": "passes.pack",
    "quickstart": "workflows.quickstart",
    "ternarize": "passes.transform",
    "train_qat": "workflows.train",
    "train_start": "workflows.train",
    "validate": "workflows.validate",
}

__all__ = (
    "Checkpoint",
    "Digest",
    "Generation",
    "Model",
    "Packed",
    "QuantTensor",
    "Rule",
    "build_kernels",
    "convert",
    "create",
    "digest",
    "environment",
    "inspect",
    "list_architectures",
    "load",
    "open_checkpoint",
    "pack",
    "quickstart",
    "ternarize",
    "train_qat",
    "train_start",
    "validate",
)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"bitnet_jax.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
