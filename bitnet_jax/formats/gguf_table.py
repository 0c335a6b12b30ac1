"""What stands beside the blocks of a GGUF file's tensors, where blocks cannot say it exactly.

A scale that no float16 is, the scale of nothing but zeros, the dtype a norm had: they stand in the
table ``bitnet_jax.tensors`` and the numbers beside it, keys that other readers pass over. The table
is as hostile as the rest of a file: nothing of it is used before it was checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native_table import check_scales
from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.models.names import Expected

TABLE = "bitnet_jax.tensors"
SCALES = "bitnet_jax.scales"
EDITED = "the file was edited after it was written: convert again from the source"
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def scale_name(gguf_name: str) -> str:
    """The tensor that llama.cpp multiplies the products of `gguf_name` by."""
    return gguf_name.removesuffix(".weight") + ".scale"


@dataclass(frozen=True)
class Kept:
    """What the table says of one tensor.

    Attributes:
      dtype: the float dtype it stands for.
      scale_kind, group_size, scale_dtype: as in `QuantTensor`; "" of a float tensor.
      scale: the exact scales, where blocks do not hold them; of a float vector its exact values,
        where the file's do not tell them.
    """

    dtype: str
    scale_kind: str = ""
    group_size: int = 0
    scale_dtype: str = "float32"
    scale: np.ndarray | None = None


def write_table(rows: Mapping[str, Kept]) -> dict[str, tuple[str, Any]]:
    """The keys that `read_table` reads; each row [dtype, kind, group, scale dtype, at, count].

    That of a float tensor is [dtype], or [dtype, at, count].
    """
    out: dict[str, list[Any]] = {}
    values: list[np.ndarray] = []
    at = 0
    for name, kept in sorted(rows.items()):
        out[name] = [kept.dtype]
        count = 0 if kept.scale is None else kept.scale.size
        if kept.scale_kind:
            out[name] += [kept.scale_kind, kept.group_size, kept.scale_dtype]
        if kept.scale_kind or count:
            out[name] += [at, count]
        if kept.scale is not None:
            values.append(kept.scale.reshape(-1).astype("<f4"))
            at += count
    found: dict[str, tuple[str, Any]] = {
        TABLE: ("string", json.dumps(out, sort_keys=True, separators=(",", ":")))
    }
    if values:
        found[SCALES] = ("[f32]", np.concatenate(values))
    return found


def read_table(
    metadata: Mapping[str, Any], wanted: Mapping[str, Expected], where: str
) -> dict[str, Kept]:
    """What files written by this package say of their tensors; empty for others.

    Raises:
      BadData: it is damaged (``gguf.table``).
    """
    text = metadata.get(TABLE)
    if text is None:
        return {}
    scales = metadata.get(SCALES, np.zeros(0, "<f4"))
    raw: Any = None
    if isinstance(text, str):
        raw = load_json(text.encode(), code="gguf.table", where=f"{where}: {TABLE}")
    good = isinstance(raw, dict) and isinstance(scales, np.ndarray) and scales.dtype == "<f4"
    if not good:
        raise BadData("gguf.table", f"{where}: {TABLE} or {SCALES} is no table", EDITED)
    found = {}
    for name, row in raw.items():
        if name not in wanted:
            raise bad_row(name, where, "which the model has not")
        found[name] = _row(wanted[name], row, scales, where)
    return found


def bad_row(name: str, where: str, what: str) -> TensorError:
    return TensorError(
        "gguf.table", f"{where}: {TABLE} has a row of {shown(name)}, {what}", EDITED,
        tensor=name[:80],
    )  # fmt: skip


def _row(item: Expected, row: Any, scales: np.ndarray, where: str) -> Kept:
    match row:
        case [str(dtype)] if dtype in _DTYPES:
            return Kept(dtype)
        case [str(dtype), int(at), int(count)] if dtype in _DTYPES and len(item.shape) == 1:
            if 0 <= at <= at + count <= scales.size and count == item.shape[0]:
                return Kept(dtype, scale=scales[at : at + count].astype(np.float32))
        case [str(dtype), str(kind), int(group), str(scale_dtype), int(at), int(count)] if (
            dtype in _DTYPES and scale_dtype in _DTYPES[:3] and item.ternary
        ):
            shape = _scale_shape(item, kind, group)
            if shape is not None and 0 <= at <= at + count <= scales.size:
                if count == 0:
                    return Kept(dtype, kind, group, scale_dtype)
                if count == math.prod(shape):
                    scale = scales[at : at + count].reshape(shape).astype(np.float32)
                    check_scales(item.name, scale, where)
                    return Kept(dtype, kind, group, scale_dtype, scale)
    raise bad_row(item.name, where, f"{shown(row)}, which means nothing")


def _scale_shape(item: Expected, kind: str, group: int) -> tuple[int, ...] | None:
    out, width = item.file_shape
    if kind == "group":
        return (out, width // group) if group > 0 and width % group == 0 else None
    return {"tensor": (), "row": (out,)}.get(kind) if group == 0 else None
