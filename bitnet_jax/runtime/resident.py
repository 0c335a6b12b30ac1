"""A checkpoint's tensors where the engine reads them: on the device, in memory made for it.

Codes stay as they are stored. On CPU all of them lie on large pages, and JAX takes them
without a copy. Knows nothing of tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.core.errors import BadData
from bitnet_jax.core.pages import Pages
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.targets.detect import detect


def to_device(checkpoint: Checkpoint) -> Packed:
    """Reads a checkpoint's tensors onto the device: codes as they are, floats as float32.

    Raises:
      BadData: a tensor holds what no model can run with; the code says which.
    """
    put = _on_cpu(Pages()) if detect().platform == "cpu" else jax.device_put
    leaves: dict[str, Any] = {}
    for name in checkpoint.entries:
        value = checkpoint.read(name)
        if isinstance(value, QuantTensor):
            leaves[name] = replace(value, codes=put(value.codes), scale=put(value.scale))
            continue
        if checkpoint.entries[name].ternary:
            raise BadData("model.not_ternary", f"`{name}` was to be ternary and is not")
        leaves[name] = _finite(name, _float32(np.asarray(value), put))
    return Packed.of(leaves)


def _on_cpu(pages: Pages) -> Any:
    return lambda array: jax.device_put(pages.copy(np.asarray(array)))


def _float32(value: np.ndarray, put: Any) -> Any:
    # Widened on the device: numpy takes ten times longer over bfloat16.
    wide = jax.device_put(value).astype(np.float32)
    return put(wide) if detect().platform == "cpu" else wide


def _finite(name: str, value: Any) -> Any:
    if not bool(jnp.isfinite(value).all()):
        raise BadData(
            "weights.not_finite",
            f"tensor `{name}` holds NaN or infinity",
            "`bitnet model validate` lists what is wrong; take the file again from its source",
        )
    return value
