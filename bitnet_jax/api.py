"""The public Python API; `import bitnet_jax as bj` gives the same names lazily.

Everything the command line does is one of these functions. Each returns plain
records (dicts and dataclasses), prints nothing, and raises `BitnetError`s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bitnet_jax.analysis.inspect import inspect
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.ops.native.build import build as _build_kernels
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.packed import Packed
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.digest import Digest
from bitnet_jax.quant.digest import digest as _digest
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.runtime.model import Generation, Model, load
from bitnet_jax.workflows.convert import convert
from bitnet_jax.workflows.create import create, list_architectures
from bitnet_jax.workflows.environment import environment
from bitnet_jax.workflows.quickstart import quickstart
from bitnet_jax.workflows.train import train_qat, train_start
from bitnet_jax.workflows.validate import validate

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


def digest(model: Any) -> Digest:
    """Digests of a model: a path, a `Model`, a `Checkpoint`, or `Packed` parameters."""
    if isinstance(model, str | os.PathLike):
        return open_checkpoint(model).digest()
    if isinstance(model, Model):
        return model.digest
    if isinstance(model, Packed):
        return _digest(model.ternary())
    return model.digest()


def build_kernels(output: str | os.PathLike, force: bool = False) -> Any:
    """Builds the native CPU kernels into the folder `output`, for ``BITNET_KERNELS``."""
    return _build_kernels(Path(output), force)
