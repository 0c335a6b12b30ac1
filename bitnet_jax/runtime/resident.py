"""A checkpoint's tensors where the engine reads them: on the device, in memory made for it.

Codes stay as they are stored. On CPU all of them lie on large pages, and JAX takes them
without a copy. Knows nothing of tokens.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import ml_dtypes
import numpy as np

from bitnet_jax.core.errors import BadData, UsageError, did_you_mean
from bitnet_jax.core.pages import ALIGNMENT, Pages, is_held
from bitnet_jax.core.system import usable_cores
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ops.native.repack import check_layout, repack
from bitnet_jax.ops.native.rows_quantize import quantize_rows
from bitnet_jax.ops.select import select
from bitnet_jax.passes.packed import Packed
from bitnet_jax.quant.finite import require_finite
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
    check_held(head, layout)
    place = _Place(head, layout)
    # Reading, checking and copying let go of Python's lock: a thread for each processor.
    with ThreadPoolExecutor(usable_cores() or 1) as threads:
        read = threads.map(lambda name: (name, *place.hold(checkpoint, name)), checkpoint.entries)
        held = [(name, leaf, is_narrow) for name, leaf, is_narrow in read]
    leaves = {name: leaf for name, leaf, _ in held}
    return Packed.of(leaves, [name for name, _, is_narrow in held if is_narrow])


def check_held(head: str | None, layout: str | None) -> None:
    """Raises `UsageError` unless `to_device` takes these: as it says."""
    if head is not None and head not in HEADS:
        raise UsageError(
            "model.head_kind", f"the head cannot be held as {head!r}", did_you_mean(head, HEADS)
        )
    if layout is not None:
        check_layout(layout)


def is_head(name: str) -> bool:
    """True for an embedding or a head, as families name theirs (`models/family.py`)."""
    return any(part == "lm_head" or part.startswith("embed_") for part in name.split("."))


# Weights that are quantized at once: of two bytes each, they stay in the third cache.
_PIECE = 2 << 20


class _Place:
    """Where tensors are put, and in what form; `hold` may run on many threads."""

    def __init__(self, head: str | None, layout: str | None):
        self._head, self._layout = head, layout
        self._on_cpu = detect().platform == "cpu"
        native = self._on_cpu and select("dense_matmul", "cpu").implementation == "native"
        self._keeps_narrow = native
        self._pages, self._guard = Pages(), threading.Lock()

    def hold(self, checkpoint: Checkpoint, name: str) -> tuple[Any, bool]:
        """Reads a tensor and puts it on the device; says whether it stays bfloat16."""
        entry = checkpoint.entries[name]
        if self._head is not None and is_head(name) and len(entry.shape) == 2 and not entry.ternary:
            rows = max(_PIECE // max(entry.shape[1], 1), 1)
            parts = checkpoint.parts(name, rows)
            return self._put_tensor(quantize_rows(parts, entry.shape, self._head, name)), False
        value = entry.read()
        if isinstance(value, QuantTensor):
            if self._layout is not None and value.kind == TERNARY:
                value = repack(value, self._layout, name)
            return self._put_tensor(value), False
        if entry.ternary:
            raise BadData("model.not_ternary", f"`{name}` was to be ternary and is not")
        array = np.asarray(value)
        require_finite(name, array)
        if self._keeps_narrow and array.dtype == ml_dtypes.bfloat16 and array.ndim == 2:
            return self._put(array), True
        return self._put(_widened(array)), False

    def _put_tensor(self, tensor: QuantTensor) -> QuantTensor:
        return replace(tensor, codes=self._put(tensor.codes), scale=self._put(tensor.scale))

    def _put(self, array: Any) -> Any:
        array = np.asarray(array)
        if not self._on_cpu:
            return jax.device_put(array)
        if not is_held(array) or not array.flags.c_contiguous or array.ctypes.data % ALIGNMENT:
            with self._guard:
                place = self._pages.empty(array.shape, array.dtype)
            place[...] = array
            array = place
        return jax.device_put(array)


def _widened(array: np.ndarray) -> np.ndarray:
    """`array` as float32, exactly. bfloat16 is the upper half of it."""
    if array.dtype != ml_dtypes.bfloat16:
        return array.astype(np.float32, copy=False)
    return (array.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
