"""How integer codes lie in memory: the layouts, each a row of `LAYOUTS`.

Codes are the canonical matrix [*stack, out, in] of int8 numbers.

`t2.16x16`, ternary: blocks of 16 rows and 16 columns, see `packing.py`.

`t1.16x20`, ternary: blocks of 16 rows and 20 columns, five trits a byte, see `dense.py`.

`i8.rows`, int8: the codes themselves, int8 [*stack, out, in].

`i4.rows`, int4: uint8 [*stack, out, ceil(in/2)]. Byte k of a row MUST hold the code of
column 2k in bits 0-3 and that of column 2k+1 in bits 4-7, each in two's complement.

`i6.rows`, int6: uint8 [*stack, out, 3·ceil(in/4)]. Bytes 3k, 3k+1 and 3k+2 of a row
MUST be, lowest first, the 24-bit number whose bits 6i to 6i+5 hold the code of column
4k+i (i = 0..3), each in two's complement.

In all of them a code for a column or row past the end MUST be 0, and the kind's
lowest number (-128, -32, -8) MUST NOT occur: codes are symmetric. Rows are whole by
themselves, and so is any run of columns that starts and ends at a multiple of
`Layout.step`, so such shards need no repacking.

The same code serves numpy and JAX arrays, with equal bytes. Knows nothing of scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, did_you_mean
from bitnet_jax.quant import dense, packing
from bitnet_jax.quant.absmean import namespace


@dataclass(frozen=True)
class Layout:
    """One way to store codes.

    Attributes:
      name: the id that tensors and files carry.
      dtype: of the packed array, by name.
      step: columns that share a byte or a line.
      shape: packed shape of one [out, in] matrix.
      pack: int8 [..., out, in] to packed [..., *shape(out, in)].
      unpack: its inverse, given out and in.
      take: packed codes of one matrix, indices in [0, out), in: int8 [*indices, in],
        reading those rows only.
      group_step: inputs that share a scale of their own come in a multiple of it.
    """

    name: str
    dtype: str
    step: int
    shape: Callable[[int, int], tuple[int, ...]]
    pack: Callable[[Any], Any]
    unpack: Callable[[Any, int, int], Any]
    take: Callable[[Any, Any, int], Any]
    group_step: int = 1


# ------------------------------------------------------------------------- bit fields
def _sign_extended(field: Any, bits: int) -> Any:
    """The low `bits` of each byte as a two's complement int8."""
    unused = np.uint8(8 - bits)
    return (field << unused).astype(np.int8) >> np.int8(unused)


def _int8_planes(packed: Any) -> list[Any]:
    return [packed]


def _int4_planes(packed: Any) -> list[Any]:
    return [_sign_extended(packed, 4), _sign_extended(packed >> np.uint8(4), 4)]


def _int6_planes(packed: Any) -> list[Any]:
    low, middle, high = (packed[..., at::3] for at in range(3))
    fields = (
        low,
        (low >> np.uint8(6)) | (middle << np.uint8(2)),
        (middle >> np.uint8(4)) | (high << np.uint8(4)),
        high >> np.uint8(2),
    )
    return [_sign_extended(field, 6) for field in fields]


# layout id -> packed [..., bytes] to int8 planes; plane j of k holds columns j, j+k, ...
PLANES: dict[str, Callable[[Any], list[Any]]] = {
    "i8.rows": _int8_planes,
    "i6.rows": _int6_planes,
    "i4.rows": _int4_planes,
}


def _fields(codes: Any, step: int, bits: int) -> list[Any]:
    """Codes [..., in] as `step` uint8 arrays of `bits` low bits, padded with code 0."""
    pad = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % step)]
    padded = namespace(codes).pad(codes, pad).astype(np.uint8) & np.uint8((1 << bits) - 1)
    return [padded[..., at::step] for at in range(step)]


def _pack_int4(codes: Any) -> Any:
    low, high = _fields(codes, 2, 4)
    return low | (high << np.uint8(4))


def _pack_int6(codes: Any) -> Any:
    a, b, c, d = _fields(codes, 4, 6)
    triple = (
        a | (b << np.uint8(6)),
        (b >> np.uint8(2)) | (c << np.uint8(4)),
        (c >> np.uint8(4)) | (d << np.uint8(2)),
    )
    stacked = namespace(codes).stack(triple, axis=-1)
    return stacked.reshape(*codes.shape[:-1], 3 * a.shape[-1])


def _rows(name: str, dtype: str, step: int, bytes_per_step: int, pack: Callable) -> Layout:
    """A layout whose rows lie one after another."""

    def unpack_columns(packed: Any, inputs: int) -> Any:
        planes = PLANES[name](packed)
        if len(planes) == 1:
            return planes[0]
        interleaved = namespace(packed).stack(planes, axis=-1)
        width = step * planes[0].shape[-1]
        return interleaved.reshape(*packed.shape[:-1], width)[..., :inputs]

    return Layout(
        name,
        dtype,
        step,
        shape=lambda out, inputs: (out, -(-inputs // step) * bytes_per_step),
        pack=pack,
        unpack=lambda packed, out, inputs: unpack_columns(packed, inputs),
        take=lambda packed, index, inputs: unpack_columns(packed[index], inputs),
    )


def _take_trits(codes: Any, index: Any, inputs: int) -> Any:
    """Rows of `t2.16x16` codes [OB, IB, 64]: four bytes of each line of the row's block."""
    ob, ib, _ = codes.shape
    lines = codes.reshape(ob, ib, packing.BLOCK, 4)
    row = lines[index // packing.BLOCK, :, index % packing.BLOCK]  # [*index, IB, p]
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    pairs = (row[..., None, :] >> shifts) & np.uint8(3)  # [*index, IB, j, p]
    trits = pairs.astype(np.int8) - np.int8(1)
    return trits.reshape(*row.shape[:-2], ib * packing.BLOCK)[..., :inputs]


LAYOUTS: dict[str, Layout] = {
    row.name: row
    for row in (
        Layout(
            packing.LAYOUT,
            "uint8",
            packing.BLOCK,
            shape=packing.codes_shape,
            pack=packing.pack_trits,
            unpack=packing.unpack_trits,
            take=_take_trits,
        ),
        Layout(
            dense.LAYOUT,
            "uint8",
            dense.COLUMNS,
            shape=dense.codes_shape,
            pack=dense.pack,
            unpack=dense.unpack,
            take=dense.take,
            group_step=dense.TURN,
        ),
        _rows("i8.rows", "int8", 1, 1, lambda codes: codes),
        _rows("i6.rows", "uint8", 4, 3, _pack_int6),
        _rows("i4.rows", "uint8", 2, 1, _pack_int4),
    )
}

# kind of weight -> the layouts that it may have, the first of them unless another is asked for
LAYOUTS_OF: dict[str, tuple[str, ...]] = {
    "ternary": (packing.LAYOUT, dense.LAYOUT),
    "int8": ("i8.rows",),
    "int6": ("i6.rows",),
    "int4": ("i4.rows",),
}
LAYOUT_OF: dict[str, str] = {kind: layouts[0] for kind, layouts in LAYOUTS_OF.items()}


def kinds_in_words() -> str:
    """Every kind and its layouts, as errors say them."""
    return ", ".join(f"{kind} in {' or '.join(rows)}" for kind, rows in LAYOUTS_OF.items())


def layout_of(name: str, tensor: str = "") -> Layout:
    """The layout with the id `name`.

    Raises:
      BadData: there is none (``tensor.layout``); the message names `tensor`.
    """
    if name not in LAYOUTS:
        of = f"`{tensor}` is" if tensor else "codes are"
        raise BadData(
            "tensor.layout",
            f"{of} in layout {name!r}, which is not known here (known: {', '.join(LAYOUTS)})",
            did_you_mean(name, LAYOUTS),
        )
    return LAYOUTS[name]


def pack_codes(codes: Any, layout: str) -> Any:
    """Packs int8 codes [*stack, out, in].

    Values outside the kind's range are the caller's bug and give unspecified bytes.

    Raises:
      BadData: the layout is unknown (``tensor.layout``).
    """
    return layout_of(layout).pack(codes)


def unpack_codes(packed: Any, layout: str, out_features: int, in_features: int) -> Any:
    """Inverse of `pack_codes`: int8 [*stack, out, in].

    Raises:
      BadData: the layout is unknown (``tensor.layout``).
    """
    return layout_of(layout).unpack(packed, out_features, in_features)
