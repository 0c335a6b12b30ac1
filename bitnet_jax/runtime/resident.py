"""A checkpoint's tensors where the engine reads them: on the device, in memory made for it.

Codes stay as they are stored. On CPU all of them lie on large pages, and JAX takes them
without a copy. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bitnet_jax.core.errors import BadData, UsageError, did_you_mean
from bitnet_jax.core.pages import Pages
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ops.native.repack import check_layout, repack
from bitnet_jax.ops.select import select
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.kinds import quantize_weights
from bitnet_jax.quant.layouts import LAYOUT_OF, pack_codes
from bitnet_jax.quant.tensor import TERNARY, QuantTensor
from bitnet_jax.targets.detect import detect

# Kinds that the embedding and the head may be held in: under profile `fast` only.
HEADS = ("int8", "int6", "int4")


def to_device(checkpoint: Checkpoint, head: str | None = None, layout: str | None = None) -> Packed:
    """Reads a checkpoint's tensors onto the device: codes as they are, floats exactly.

    Large bfloat16 matrices stay so where a kernel multiplies by them as they are; all other
    floats become float32.

    Args:
      head: a kind of `HEADS` in which the embedding and the head are held, with a scale for
        each row; None: as the checkpoint has them.
      layout: of the trits; None: as the checkpoint has them.

    Raises:
      UsageError: there is no such kind (``model.head_kind``), no such layout of trits
        (``tensor.layout_unknown``).
      BadData: a tensor holds what no model can run with; the code says which.
    """
    if head is not None and head not in HEADS:
        raise UsageError(
            "model.head_kind", f"the head cannot be held as {head!r}", did_you_mean(head, HEADS)
        )
    if layout is not None:
        check_layout(layout)
    on_cpu = detect().platform == "cpu"
    put = _on_large_pages(Pages()) if on_cpu else jax.device_put
    keeps_narrow = on_cpu and select("dense_matmul", "cpu").implementation == "native"
    leaves: dict[str, Any] = {}
    narrow: list[str] = []
    for name, entry in checkpoint.entries.items():
        value = checkpoint.read(name)
        if isinstance(value, QuantTensor):
            if layout is not None and value.kind == TERNARY:
                value = repack(value, layout, name)
            leaves[name] = replace(value, codes=put(value.codes), scale=put(value.scale))
            continue
        if entry.ternary:
            raise BadData("model.not_ternary", f"`{name}` was to be ternary and is not")
        array = np.asarray(value)
        if head is not None and is_head(name) and array.ndim == 2:
            leaves[name] = _in_rows(name, array, head, put)
        elif keeps_narrow and array.dtype == ml_dtypes.bfloat16 and array.ndim == 2:
            leaves[name] = _finite(name, put(array))
            narrow.append(name)
        else:
            # Widened on the device: numpy takes ten times longer over bfloat16.
            leaves[name] = _finite(name, put(jax.device_put(array).astype(np.float32)))
    return Packed.of(leaves, narrow)


def is_head(name: str) -> bool:
    """True for an embedding or a head, as families name theirs (`models/family.py`)."""
    return any(part == "lm_head" or part.startswith("embed_") for part in name.split("."))


def _on_large_pages(pages: Pages) -> Callable[[Any], Any]:
    return lambda array: jax.device_put(pages.copy(np.asarray(array)))


# Rows quantized at once: 100 MB of float32 at a width of 2560.
_ROWS = 10240


def _in_rows(name: str, array: np.ndarray, kind: str, put: Callable[[Any], Any]) -> QuantTensor:
    """A matrix [out, in] as codes of `kind` with a float32 scale for each row."""
    codes, scales = [], []
    for at in range(0, len(array), _ROWS):
        some = _finite(name, jnp.asarray(array[at : at + _ROWS]).astype(jnp.float32))
        values, scale = quantize_weights(some, kind, "row", scale_dtype="float32")
        codes.append(np.asarray(pack_codes(values, LAYOUT_OF[kind])))
        scales.append(np.asarray(scale))
    return QuantTensor(
        put(np.concatenate(codes)),
        put(np.concatenate(scales)),
        shape=array.shape,
        dtype="float32",
        stack_axes=(),
        out_axes=(0,),
        in_axes=(1,),
        scale_kind="row",
        kind=kind,
        layout=LAYOUT_OF[kind],
    )


def _finite(name: str, value: Any) -> Any:
    if not bool(jnp.isfinite(value).all()):
        raise BadData(
            "weights.not_finite",
            f"tensor `{name}` holds NaN or infinity",
            "`bitnet model validate` lists what is wrong; take the file again from its source",
        )
    return value
