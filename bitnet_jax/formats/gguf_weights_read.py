"""One tensor of a GGUF file to the parameter it holds: blocks to trits and scales, or to floats.

Where a value is stored and stated in the table too, they are compared, to one unit in the last
place. What no table tells is seen in the values. Knows no key of any architecture.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bitnet_jax.containers import gguf_ternary as blocks
from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.gguf import GgufFile
from bitnet_jax.containers.gguf_blocks import CODECS, FLOATS
from bitnet_jax.containers.gguf_ternary import BLOCKED
from bitnet_jax.containers.native_table import check_scales
from bitnet_jax.formats.gguf_norms import read_norm
from bitnet_jax.formats.gguf_rotary import separate
from bitnet_jax.formats.gguf_table import EDITED, SCALES, TABLE, Kept, bad_row, scale_name
from bitnet_jax.models.names import Expected
from bitnet_jax.quant.finite import is_finite
from bitnet_jax.quant.tensor import QuantTensor
from bitnet_jax.quant.ternary import EPSILON, from_trits

# Bits of the mantissa of what a scale is stored in.
_MANTISSA = {"F32": 23, "F16": 10, "BF16": 7, "TQ1_0": 10, "TQ2_0": 10, "I2_S": 23}


def looks_ternary(file: GgufFile, gguf_name: str) -> bool:
    """True when the first elements of a float tensor are only {-c, 0, c}.

    As many as it takes to see one that is not zero: zeros are ternary and float alike.
    """
    info = file.info(gguf_name)
    dtype = FLOATS[info.type.name]
    count, total = 4096, math.prod(info.shape)
    while True:
        data = file.read_prefix(gguf_name, min(count, total) * dtype.itemsize)
        values = np.unique(np.abs(data.view(dtype).astype(np.float32)))
        values = values[values != 0]
        if len(values) or count >= total:
            return len(values) <= 1
        count *= 8


def read_float(
    file: GgufFile,
    item: Expected,
    gguf_name: str,
    kept: Kept | None,
    heads: int | None,
    offset: float = 0.0,
) -> np.ndarray:
    """A parameter that is not ternary, in the dtype it stands for.

    Args:
      offset: by how much larger it is in the file.
    """
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
    if offset or (kept is not None and kept.scale is not None):
        value = read_norm(item.name, value, offset, kept, f"`{file.path}`")
    if kept is None or numpy_dtype(kept.dtype) == value.dtype:
        return value
    narrow = value.astype(numpy_dtype(kept.dtype))
    if stored in FLOATS and not np.array_equal(
        narrow.astype(np.float32), value.astype(np.float32), equal_nan=True
    ):
        raise TensorError(
            "gguf.table",
            f"`{file.path}`: {TABLE} says that `{item.name}` is {kept.dtype}; its values are not",
            EDITED,
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
        raise bad_row(item.name, where, f"groups of {form.group_size}, which {stored} has not")
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
            EDITED,
            tensor=item.name,
        )
