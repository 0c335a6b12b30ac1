"""The tensor table of a `.bitnet` file: one row for each quantized tensor.

What the header says of a tensor's codes and scales, and the checks that it is
possible at all. How codes lie is in `native_codes.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_jax.containers import native_codes
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.native_codes import KINDS, LAYOUTS
from bitnet_jax.core.errors import BadData, shown

_WORDS = {
    "dtype": ("float32", "bfloat16", "float16", "float64"),
    "scale_dtype": ("float32", "bfloat16", "float16"),
    "scale_kind": ("tensor", "row", "group"),
}
_AXES = ("stack_axes", "out_axes", "in_axes")

_UPDATE = "a newer bitnet-jax wrote it: update this one"
_DAMAGED = "the file is damaged: download or copy it again"


@dataclass(frozen=True)
class Row:
    """How one quantized tensor is stored.

    Invariants: the three axes lists together name each axis of `shape` once;
    `scales` is [offset, length] in elements of ``__scales__``, its length the
    product of `scale_shape`.
    """

    shape: tuple[int, ...]
    dtype: str
    stack_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    in_axes: tuple[int, ...]
    scale_kind: str
    group_size: int
    scale_dtype: str
    scales: tuple[int, int]
    kind: str = "ternary"
    layout: str = "t2.16x16"

    def _sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in axes)

    @property
    def stack(self) -> tuple[int, ...]:
        """Sizes of the stacked axes."""
        return self._sizes(self.stack_axes)

    @property
    def out_features(self) -> int:
        """Rows of the matrix."""
        return math.prod(self._sizes(self.out_axes))

    @property
    def in_features(self) -> int:
        """Columns of the matrix, the contracted size."""
        return math.prod(self._sizes(self.in_axes))

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of the U8 tensor that holds the codes."""
        return (*self.stack, *LAYOUTS[self.layout].shape(self.out_features, self.in_features))

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the tensor's scales."""
        tail = {
            "tensor": (),
            "row": (self.out_features,),
            "group": (self.out_features, self.in_features // max(self.group_size, 1)),
        }
        return (*self.stack, *tail[self.scale_kind])

    def to_json(self) -> dict[str, Any]:
        """As it stands in the metadata; keys in a fixed order."""
        return {
            "kind": self.kind,
            "layout": self.layout,
            "shape": list(self.shape),
            "dtype": self.dtype,
            **{name: list(getattr(self, name)) for name in _AXES},
            "scale_kind": self.scale_kind,
            "group_size": self.group_size,
            "scale_dtype": self.scale_dtype,
            "scales": list(self.scales),
        }


_FIELDS = frozenset(Row.__dataclass_fields__)


def parse_row(name: str, raw: Any, where: str) -> Row:
    """Checks one row of the table.

    Raises:
      BadData: a field is missing, impossible, or of a kind this version does not know.
    """

    def bad(code: str, message: str, hint: str = _DAMAGED) -> TensorError:
        return TensorError(code, f"{where}, tensor `{name}`: {message}", hint, tensor=name)

    if not isinstance(raw, dict) or not _FIELDS <= raw.keys():
        missing = _FIELDS - raw.keys() if isinstance(raw, dict) else _FIELDS
        raise bad("bitnet.table", f"its row lacks {', '.join(sorted(missing))}")
    if raw["kind"] not in KINDS:
        raise bad("bitnet.unknown_kind", f"kind {shown(raw['kind'])} is not known here", _UPDATE)
    if raw["layout"] not in tuple(LAYOUTS):  # a list would not hash
        known = ", ".join(LAYOUTS)
        raise bad(
            "bitnet.unknown_layout",
            f"layout {shown(raw['layout'])} is not known here (known: {known})",
            _UPDATE,
        )
    if LAYOUTS[raw["layout"]].kind != raw["kind"]:
        raise bad("bitnet.table", f"layout {raw['layout']} holds no codes of kind {raw['kind']}")
    for field, words in _WORDS.items():
        if raw[field] not in words:
            raise bad("bitnet.table", f"{field} {shown(raw[field])} is none of {', '.join(words)}")
    for field in ("shape", "scales", *_AXES):
        value = raw[field]
        if not isinstance(value, list) or not all(_natural(item) for item in value):
            raise bad("bitnet.table", f"{field} {shown(value)} is no list of whole numbers")
    if not _natural(raw["group_size"]) or len(raw["scales"]) != 2 or 0 in raw["shape"]:
        raise bad("bitnet.table", "group_size, scales or shape is impossible")
    if sorted(axis for field in _AXES for axis in raw[field]) != list(range(len(raw["shape"]))):
        raise bad("bitnet.table", "its axes do not name each axis of its shape once")
    row = Row(**{field: _frozen(raw[field]) for field in _FIELDS})
    grouped = row.scale_kind == "group"
    if grouped != (row.group_size > 0) or (grouped and row.in_features % row.group_size):
        raise bad(
            "bitnet.table", f"group size {row.group_size} does not fit {row.in_features} inputs"
        )
    if row.group_size % LAYOUTS[row.layout].group_step:
        raise bad(
            "bitnet.table",
            f"layout {row.layout} takes groups of a multiple of {LAYOUTS[row.layout].group_step} "
            f"inputs, not of {row.group_size}",
        )
    wanted = math.prod(row.scale_shape)
    if wanted != row.scales[1]:
        raise bad(
            "bitnet.table",
            f"{row.scale_kind} scales number {wanted}, its slice has {row.scales[1]}",
        )
    return row


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_slices(rows: dict[str, Row], total: int, where: str) -> None:
    """Raises unless the rows' scale slices tile ``__scales__`` exactly."""
    position = 0
    for name, row in sorted(rows.items(), key=lambda item: item[1].scales):
        if row.scales[0] != position:
            raise TensorError(
                "bitnet.scale_slice",
                f"{where}, tensor `{name}`: its scales begin at {row.scales[0]}, not {position}",
                _DAMAGED,
                tensor=name,
            )
        position += row.scales[1]
    if position != total:
        raise BadData(
            "bitnet.scale_slice",
            f"{where}: the table uses {position} scales, `__scales__` holds {total}",
            _DAMAGED,
        )


def check_codes(name: str, codes: np.ndarray, row: Row, where: str) -> None:
    """Raises on a code that its kind does not have, and on padding that is not 0."""
    native_codes.check_codes(name, codes, row.layout, row.out_features, row.in_features, where)


def check_scales(name: str, scale: np.ndarray, where: str) -> None:
    """Raises unless every scale is a positive, normal, finite float32."""
    tiny = np.finfo(np.float32).tiny
    flat = scale.reshape(-1)
    bad = np.flatnonzero(~(np.isfinite(flat) & (flat >= tiny)))
    if bad.size:
        raise TensorError(
            "scale.invalid",
            f"{where}, tensor `{name}`: {bad.size} of {flat.size} scales are no positive normal "
            f"number, the first ({flat[bad[0]]}) at index {int(bad[0])}",
            "the source is damaged or was overflowed by a cast: convert again from the original",
            tensor=name,
        )
