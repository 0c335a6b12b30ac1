"""One tensor of a GGUF file: a parameter's trits, scales or floats, to blocks and back.

What blocks cannot hold exactly (a scale that no float16 is, the scale of nothing but zeros, the
dtype a norm had) stands in the table ``bitnet_jax.tensors`` and the numbers beside it; where
a value is stored too, they are compared, to one unit in its last place. Knows no key of any
architecture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitnet_jax.containers import gguf_ternary as blocks
from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf import GgufFile
from bitnet_jax.containers.gguf_blocks import CODECS, FLOATS
from bitnet_jax.containers.native_table import check_scales
from bitnet_jax.core.errors import BadData, CannotCreate, shown
from bitnet_jax.models.names import Expected
from bitnet_jax.quant.finite import is_finite
from bitnet_jax.quant.tensor import TERNARY, QuantTensor, broadcast_scale
from bitnet_jax.quant.ternary import EPSILON, from_trits

TABLE = "bitnet_jax.tensors"
SCALES = "bitnet_jax.scales"
BLOCKED: dict[str, tuple[Callable, Callable]] = {
    "TQ1_0": (blocks.encode_tq1, blocks.decode_tq1),
    "TQ2_0": (blocks.encode_tq2, blocks.decode_tq2),
}
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_EDITED = "the file was edited after it was written: convert again from the source"
# Bits of the mantissa of what a scale is stored in.
_MANTISSA = {"F32": 23, "F16": 10, "BF16": 7, "TQ1_0": 10, "TQ2_0": 10, "I2_S": 23}


def scale_name(gguf_name: str) -> str:
    """The tensor that llama.cpp multiplies the products of `gguf_name` by."""
    return gguf_name.removesuffix(".weight") + ".scale"


@dataclass(frozen=True)
class Kept:
    """What the table says of one tensor.

    Attributes:
      dtype: the float dtype it stands for.
      scale_kind, group_size, scale_dtype: as in `QuantTensor`; "" of a float tensor.
      scale: the exact scales, where blocks do not hold them.
    """

    dtype: str
    scale_kind: str = ""
    group_size: int = 0
    scale_dtype: str = "float32"
    scale: np.ndarray | None = None


# ---------------------------------------------------------------------------- the table
def write_table(rows: Mapping[str, Kept]) -> dict[str, tuple[str, Any]]:
    """The keys that `read_table` reads; each row [dtype, kind, group, scale dtype, at, count]."""
    out: dict[str, list[Any]] = {}
    values: list[np.ndarray] = []
    at = 0
    for name, kept in sorted(rows.items()):
        out[name] = [kept.dtype]
        if kept.scale_kind:
            count = 0 if kept.scale is None else kept.scale.size
            out[name] += [kept.scale_kind, kept.group_size, kept.scale_dtype, at, count]
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
        raise BadData("gguf.table", f"{where}: {TABLE} or {SCALES} is no table", _EDITED)
    found = {}
    for name, row in raw.items():
        if name not in wanted:
            raise _bad_row(name, where, "which the model has not")
        found[name] = _row(wanted[name], row, scales, where)
    return found


def _bad_row(name: str, where: str, what: str) -> TensorError:
    return TensorError(
        "gguf.table", f"{where}: {TABLE} has a row of {shown(name)}, {what}", _EDITED,
        tensor=name[:80],
    )  # fmt: skip


def _row(item: Expected, row: Any, scales: np.ndarray, where: str) -> Kept:
    match row:
        case [str(dtype)] if dtype in _DTYPES:
            return Kept(dtype)
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
    raise _bad_row(item.name, where, f"{shown(row)}, which means nothing")


def _scale_shape(item: Expected, kind: str, group: int) -> tuple[int, ...] | None:
    out, width = item.file_shape
    if kind == "group":
        return (out, width // group) if group > 0 and width % group == 0 else None
    return {"tensor": (), "row": (out,)}.get(kind) if group == 0 else None


# ------------------------------------------------------------------------------ rotary
def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's rotary embedding of neighbouring pairs wants them.

    Of each head, row ``i`` of the first half goes before row ``i`` of the second.
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def separate(rows: np.ndarray, heads: int) -> np.ndarray:
    """Inverse of `interleave`."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


# ------------------------------------------------------------------------------ writing
@dataclass(frozen=True)
class Form:
    """How one ternary tensor will be stored.

    Attributes:
      inner: the scale inside the blocks (or the floats), of `kept.scale_kind`'s shape.
      outer: the value of a ``.scale`` tensor, or None.
    """

    kind: str
    kept: Kept
    inner: np.ndarray
    outer: np.float32 | None = None


def plan_ternary(name: str, tensor: QuantTensor, kind: str, outer: bool) -> Form:
    """Decides where the scales of a tensor go; reads its trits, writes nothing.

    Args:
      kind: the key of `gguf_types.TYPES`.
      outer: the architecture has ``.scale`` tensors.

    Raises:
      CannotCreate: it is not ternary, or its scales have no place in `kind`
        (``gguf.kind``, ``gguf.scale_kind``, ``gguf.scale_range``).
    """
    if tensor.kind != TERNARY:
        raise CannotCreate(
            "gguf.kind",
            f"`{name}` is {tensor.kind}; this format holds ternary matrices and floats",
            "keep it float, or make it ternary, by a rule",
        )
    _check_scale_kind(name, tensor, kind)
    scale = np.asarray(tensor.scale, np.float32)
    kept = Kept(tensor.dtype, tensor.scale_kind, tensor.group_size, tensor.scale_dtype)
    stored = _stored_as(scale, kind)
    exact = np.array_equal(stored.astype(np.float32), scale)
    if kind in FLOATS and not _told_by_values(tensor):
        return Form(kind, replace(kept, scale=scale), scale)
    if exact:
        return Form(kind, kept, scale)
    if outer and tensor.scale_kind == "tensor":
        return Form(kind, kept, np.ones((), np.float32), np.float32(scale))
    narrow = stored.astype(np.float32)
    if not (is_finite(narrow) and (narrow > 0).all()):
        raise CannotCreate(
            "gguf.scale_range",
            f"`{name}` has a scale of {float(scale.reshape(-1)[0])}, which is outside what {kind} "
            "can hold",
            "use --encoding f32",
        )
    return Form(kind, replace(kept, scale=scale), narrow)


def _stored_as(scale: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return scale.astype(FLOATS.get(kind, np.dtype("<f2" if kind in BLOCKED else "<f4")))


def _check_scale_kind(name: str, tensor: QuantTensor, kind: str) -> None:
    group = tensor.group_size
    fits = {
        "tensor": True,
        "row": kind != "I2_S",
        "group": kind in FLOATS or (kind in BLOCKED and group % blocks.BLOCK == 0),
    }
    if fits[tensor.scale_kind] and not tensor.stack_axes:
        return
    what = f"a scale for every {group} inputs" if group else f"{tensor.scale_kind} scales"
    raise CannotCreate(
        "gguf.scale_kind",
        f"`{name}` has {'stacked axes' if tensor.stack_axes else what}, which {kind} has no place "
        "for; one for all would change the model",
        "use --encoding f32" if not tensor.stack_axes else "keep it as --format bitnet",
    )


def _told_by_values(tensor: QuantTensor) -> bool:
    """Whether each scale stands beside some trit that is not zero, and so shows in the floats."""
    used = np.asarray(tensor.trits()) != 0
    if tensor.scale_kind == "tensor":
        return bool(used.any())
    if tensor.scale_kind == "row":
        return bool(used.any(axis=1).all())
    groups = used.reshape(len(used), -1, tensor.group_size)
    return bool(groups.any(axis=2).all())


def encode_ternary(tensor: QuantTensor, form: Form, heads: int | None) -> np.ndarray:
    """The bytes of one ternary tensor; `heads` of a matrix whose rows are interleaved."""
    trits = np.asarray(tensor.trits())
    inner, scale_kind = form.inner, form.kept.scale_kind
    if heads is not None:
        trits = interleave(trits, heads)
        inner = inner if scale_kind == "tensor" else interleave(inner, heads)
    if form.kind == "I2_S":
        return blocks.encode_i2s(trits, np.float32(inner))
    if form.kind in FLOATS:
        weight = trits * broadcast_scale(inner, scale_kind, form.kept.group_size)
        return weight.astype(FLOATS[form.kind])
    count = trits.shape[1] // blocks.BLOCK
    d = {
        "tensor": lambda: np.broadcast_to(inner, (len(trits), count)),
        "row": lambda: np.broadcast_to(inner[:, None], (len(trits), count)),
        "group": lambda: np.repeat(inner, form.kept.group_size // blocks.BLOCK, axis=1),
    }[scale_kind]()
    return BLOCKED[form.kind][0](trits, d.astype("<f2"))


def encode_float(
    name: str, value: np.ndarray, kind: str, heads: int | None
) -> tuple[np.ndarray, bool]:
    """The bytes of a float tensor, and whether they hold it exactly.

    Raises:
      CannotCreate: a value becomes infinite in `kind` (``gguf.range``).
    """
    value = interleave(value, heads) if heads is not None else value
    codec, shape = CODECS[kind], value.shape
    wide = value if value.dtype == np.float64 else value.astype(np.float32)
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(codec.encode(wide)).reshape(-1).view(np.uint8)  # type: ignore[misc]
    again = codec.decode(data, shape)
    if not is_finite(again) and is_finite(wide):
        raise CannotCreate(
            "gguf.range",
            f"`{name}` holds values that become infinite as {kind}",
            "use bf16 or f32 for it",
        )
    return data, bool(np.array_equal(again, wide, equal_nan=True))


# ------------------------------------------------------------------------------ reading
def looks_ternary(file: GgufFile, gguf_name: str) -> bool:
    """True when the first elements of a float tensor are only {-c, 0, c}."""
    info = file.info(gguf_name)
    dtype = FLOATS[info.type.name]
    values = file.read_prefix(gguf_name, 4096 * dtype.itemsize).view(dtype).astype(np.float32)
    values = np.unique(np.abs(values))
    return len(values[values != 0]) <= 1


def read_float(
    file: GgufFile, item: Expected, gguf_name: str, kept: Kept | None, heads: int | None
) -> np.ndarray:
    """A parameter that is not ternary, in the dtype it stands for."""
    info = file.info(gguf_name)
    data = file.read_bytes(gguf_name)
    stored = info.type.name
    if stored in FLOATS:
        value = data.view(FLOATS[stored]).reshape(item.file_shape)
    else:
        value = CODECS[stored].decode(data, item.file_shape)
    value = separate(value, heads) if heads is not None else value
    if item.transposed:
        value = np.ascontiguousarray(value.T)
    if kept is None or numpy_dtype(kept.dtype) == value.dtype:
        return value
    narrow = value.astype(numpy_dtype(kept.dtype))
    if stored in FLOATS and not np.array_equal(
        narrow.astype(np.float32), value.astype(np.float32), equal_nan=True
    ):
        raise TensorError(
            "gguf.table",
            f"`{file.path}`: {TABLE} says that `{item.name}` is {kept.dtype}; its values are not",
            _EDITED,
            tensor=item.name,
        )
    return narrow


def read_ternary(
    file: GgufFile, item: Expected, gguf_name: str, kept: Kept | None, heads: int | None
) -> QuantTensor:
    """A ternary parameter, from blocks of trits or from floats that are {-c, 0, c}.

    Raises:
      BadData: what is stored is not ternary (``tensor.not_ternary``), a scale is none
        (``tensor.scale``), or the table states another (``gguf.scale_mismatch``).
    """
    where = f"`{file.path}`"
    info = file.info(gguf_name)
    stored = info.type.name
    trits, cells = _cells(file.read_bytes(gguf_name), stored, item, where)
    if heads is not None:
        trits = separate(trits, heads)
        cells = separate(cells, heads) if cells.ndim else cells
    outer_name = scale_name(gguf_name)
    outer = None
    if outer_name in file.tensors:
        outer = _outer(file, outer_name, item, where)
    form = kept if kept is not None and kept.scale_kind else _guess(cells, stored, outer)
    scale = _gather(cells, form, item, stored, where)
    if outer is not None:
        scale = (scale * outer).astype(np.float32)
    if form.scale is not None:
        _check_stated(scale, form.scale, stored, item, where)
        scale = form.scale
    # What nothing tells (all trits of it are zero) is the least scale there is.
    scale = np.where(scale == 0, np.float32(EPSILON), scale).astype(np.float32)
    check_scales(item.name, scale, where)
    return placed(
        item,
        from_trits(
            trits,
            scale,
            scale_kind=form.scale_kind,
            group_size=form.group_size,
            scale_dtype=form.scale_dtype,
            dtype=form.dtype,
        ),
    )


def placed(item: Expected, tensor: QuantTensor) -> QuantTensor:
    """The parameter whose trits a file holds as [out, in]."""
    if not item.transposed:
        return tensor
    return replace(tensor, shape=item.shape, out_axes=(1,), in_axes=(0,))


def _cells(
    data: np.ndarray, stored: str, item: Expected, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Trits [out, in], and the scales as they lie: [], [out, in/256], or sizes [out, in]."""
    out, width = item.file_shape
    if stored == "I2_S":
        trits, scale = blocks.decode_i2s(data, (out, width), item.name, where)
        return trits, np.asarray(scale, np.float32)
    if stored in BLOCKED:
        trits, d = BLOCKED[stored][1](data, (out, width), item.name, where)
        empty = d == 0
        if empty.any() and trits.reshape(out, -1, blocks.BLOCK)[empty].any():
            raise _not_ternary(item, where, "a block has trits and the scale 0")
        return trits, d
    values = data.view(FLOATS[stored]).reshape(out, width).astype(np.float32)
    if not is_finite(values):
        raise TensorError(
            "tensor.not_finite",
            f"{where}, tensor `{item.name}`: a weight is NaN or infinite",
            "the training diverged, or the file is damaged: take an earlier checkpoint",
            tensor=item.name,
        )
    return np.sign(values).astype(np.int8), np.abs(values)


def _not_ternary(item: Expected, where: str, what: str) -> TensorError:
    return TensorError(
        "tensor.not_ternary",
        f"{where}, tensor `{item.name}`: {what}",
        "it was made from weights that were not ternary, or is damaged; to make a float model "
        "ternary: `bitnet train qat`",
        tensor=item.name,
    )


def _outer(file: GgufFile, name: str, item: Expected, where: str) -> np.float32:
    info = file.info(name)
    if info.type.name != "F32" or math.prod(info.shape) != 1:
        raise TensorError(
            "gguf.scale_tensor",
            f"{where}, tensor `{name}`: it is {info.type.name} {list(info.shape)}, not one float32",
            "only one scale for each tensor is known there",
            tensor=item.name,
        )
    value = file.read_bytes(name).view("<f4")[:1]
    check_scales(item.name, value, where)
    return value[0]


def _constant(values: np.ndarray) -> bool:
    """All that is not zero is one number."""
    some = values[values != 0]
    return some.size == 0 or bool((some == some[0]).all())


def _guess(cells: np.ndarray, stored: str, outer: np.float32 | None) -> Kept:
    """The form that stored scales have, in a file that does not say."""
    dtype = "float16" if stored in (*BLOCKED, "F16") else "float32"
    dtype = "bfloat16" if stored == "BF16" else dtype
    scale_dtype = "float32" if outer is not None else dtype
    if cells.ndim == 0 or _constant(cells):
        return Kept(dtype, "tensor", 0, scale_dtype)
    largest = cells.max(axis=1, keepdims=True)
    if ((cells == 0) | (cells == largest)).all():
        return Kept(dtype, "row", 0, scale_dtype)
    if stored in BLOCKED:
        return Kept(dtype, "group", blocks.BLOCK, scale_dtype)
    return Kept(dtype, "tensor", 0, scale_dtype)  # and is refused as not ternary


def _gather(cells: np.ndarray, form: Kept, item: Expected, stored: str, where: str) -> np.ndarray:
    """One scale for each cell of the form, 0 where nothing tells it; all within must agree."""
    if cells.ndim == 0:
        return cells
    out, width = cells.shape
    each = blocks.BLOCK if stored in BLOCKED else 1  # elements that a column of `cells` is for
    if form.scale_kind == "group" and form.group_size % each:
        raise _bad_row(item.name, where, f"groups of {form.group_size}, which {stored} has not")
    by_cell = {
        "tensor": lambda: cells.reshape(1, -1),
        "row": lambda: cells,
        "group": lambda: cells.reshape(-1, form.group_size // each),
    }[form.scale_kind]()
    scale = by_cell.max(axis=1, initial=0)
    bad = (by_cell != 0) & (by_cell != scale[:, None])
    if bad.any():
        cell = int(np.flatnonzero(bad.any(axis=1))[0])
        some = by_cell[cell]
        # Against what most have, not the largest: that may be the one that is wrong.
        other = (some != 0) & (some != np.median(some[some != 0]))
        at = cell * some.size + int(np.flatnonzero(other)[0]) if other.any() else cell * some.size
        row, column = divmod(at * each, item.file_shape[1])
        what = f"{int(other.sum()) * each} values differ in size from most that share their scale"
        raise _not_ternary(item, where, f"{what}; the first at [{row}, {column}]")
    shapes = {"tensor": (), "row": (out,), "group": (out, -1)}
    return scale.reshape(shapes[form.scale_kind])


def _check_stated(
    found: np.ndarray, stated: np.ndarray, stored: str, item: Expected, where: str
) -> None:
    """What is stored must be what the stated scales become there, to 1 ULP."""
    told = found != 0
    with np.errstate(divide="ignore"):
        ulp = np.exp2(np.floor(np.log2(stated)) - _MANTISSA[stored])
    # Below the least normal float16 its steps no longer shrink.
    ulp = np.maximum(ulp, 2.0**-24) if stored in (*BLOCKED, "F16") else ulp
    wrong = told & (np.abs(found.astype(np.float64) - stated) > ulp)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise TensorError(
            "gguf.scale_mismatch",
            f"{where}, tensor `{item.name}`: {SCALES} says its scale is "
            f"{float(stated.reshape(-1)[at])!r}, which the blocks do not bear out "
            f"({float(found.reshape(-1)[at])!r})",
            _EDITED,
            tensor=item.name,
        )
