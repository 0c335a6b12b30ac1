"""Digests of whatever holds ternary tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.digest import Digest
from bitnet_jax.quant.digest import digest as digest_tensors
from bitnet_jax.runtime.model import Model


def digest(model: str | os.PathLike | Model | Checkpoint | Packed | Mapping[str, Any]) -> Digest:
    """Digests of a model: a path, a `Model`, a `Checkpoint`, `Packed`, or tensors by name.

    Raises:
      NoInput, BadData: of a path: there is none, or it is damaged.
    """
    if isinstance(model, str | os.PathLike):
        return open_checkpoint(model).digest()
    if isinstance(model, Model):
        return model.digest
    if isinstance(model, Checkpoint):
        return model.digest()
    return digest_tensors(model.ternary() if isinstance(model, Packed) else model)
