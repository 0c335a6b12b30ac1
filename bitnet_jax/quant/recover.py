"""Ternary weights that are held as floats: their trits and scales, back from the values alone.

And what it would cost to give such a matrix fewer scales than it has. numpy only; knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bitnet_jax.quant.activations import EPSILON
from bitnet_jax.quant.tensor import QuantTensor, broadcast_scale

# Smaller groups than a packed block of trits (`layouts.py`) have no layout.
GROUP_STEP = 16


@dataclass(frozen=True)
class Recovered:
    """What floats [out, in] are: ``trits * scale``, with the fewest scales that give them.

    Attributes:
      trits: int8 [out, in].
      scale: float32, of the shape that `scale_kind` has (`QuantTensor`).
    """

    trits: np.ndarray
    scale: np.ndarray
    scale_kind: str
    group_size: int = 0


def recover(weights: np.ndarray) -> Recovered | None:
    """The trits and scales of float weights [out, in]; None if they are not ternary.

    Ternary is: the values that share a scale, of the whole matrix, of a row or of a group of
    a row's inputs, are only -c, 0 and c. Where all are 0, the scale is 1e-5.
    """
    size = np.abs(weights.astype(np.float32))
    for kind, group, peak in _peaks(size):
        scale = np.where(peak > 0, peak, np.float32(EPSILON)).astype(np.float32)
        wide = broadcast_scale(scale, kind, group)
        if np.all((size == 0) | (size == wide)):
            trits = np.sign(weights.astype(np.float32)).astype(np.int8)
            return Recovered(trits, scale, kind, group)
    return None


def _peaks(size: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """The largest values of a matrix, of its rows, of ever smaller groups of their inputs."""
    outputs, inputs = size.shape
    yield "tensor", 0, np.asarray(size.max(initial=0))
    rows = size.max(axis=1, initial=0)
    yield "row", 0, rows
    for group in range(inputs // 2, GROUP_STEP - 1, -1):
        if inputs % group == 0 and group % GROUP_STEP == 0:
            yield "group", group, size.reshape(outputs, -1, group).max(axis=-1)


def one_scale_loss(tensors: Iterable[QuantTensor]) -> float:
    """The relative RMS that the weights change by if one scale, the best, is given to all.

    sqrt(sum n (s - m)² / sum n s²), over scales s of n non-zero trits each; m is their mean
    weighted by n. 0 where they are all equal.
    """
    counts, scales = [], []
    for tensor in tensors:
        trits = np.asarray(tensor.trits())
        parts = trits.reshape(*trits.shape[:-1], -1, tensor.group_size or trits.shape[-1])
        each = np.count_nonzero(parts, axis=-1).astype(np.float64)
        scale = np.asarray(tensor.scale, np.float64)
        wide = scale if tensor.scale_kind == "group" else scale[..., None]
        if tensor.scale_kind == "tensor":
            wide = wide[..., None]
        counts.append(each.reshape(-1))
        scales.append(np.broadcast_to(wide, each.shape).reshape(-1))
    n, s = np.concatenate(counts), np.concatenate(scales)
    total = float(np.sum(n * s * s))
    if not total:
        return 0.0
    mean = float(np.sum(n * s) / np.sum(n))
    return math.sqrt(max(float(np.sum(n * (s - mean) ** 2)), 0.0) / total)
