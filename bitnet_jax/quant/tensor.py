"""`QuantTensor`: packed codes with their scale, as one pytree leaf group."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.quant.absmean import namespace
from bitnet_jax.quant.layouts import (
    LAYOUT_OF,
    LAYOUTS_OF,
    kinds_in_words,
    layout_of,
    pack_codes,
    unpack_codes,
)

TERNARY = "ternary"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantTensor:
    """A float parameter held as packed codes and a scale.

    Invariants: ``weight = codes × scale`` (always multiply); codes are integers of
    `kind` (`kinds.KINDS`), stored as `layout` says; padding codes are 0; `scale` is
    float32 and has the shape that `scale_kind` says; the float aval it stands for is
    (`shape`, `dtype`). The
    canonical matrix is [*stack, out, in]: `stack_axes`, `out_axes` and `in_axes`
    name the axes of `shape` that it is made of, in order. A leaf may be a numpy
    or a JAX array (or an abstract value while tracing).

    Attributes:
      codes: packed, [*stack, ...]; its shape and dtype are the layout's (`layouts.py`).
      scale: float32 [*stack] (tensor), [*stack, out] (row), [*stack, out, in/G] (group).
      scale_dtype: the dtype the scale has in its source; its value is exact there.
    """

    codes: Any
    scale: Any
    shape: tuple[int, ...] = field(metadata={"static": True})
    dtype: str = field(metadata={"static": True})
    stack_axes: tuple[int, ...] = field(metadata={"static": True})
    out_axes: tuple[int, ...] = field(metadata={"static": True})
    in_axes: tuple[int, ...] = field(metadata={"static": True})
    scale_kind: str = field(metadata={"static": True}, default="tensor")
    group_size: int = field(metadata={"static": True}, default=0)
    scale_dtype: str = field(metadata={"static": True}, default="float32")
    kind: str = field(metadata={"static": True}, default=TERNARY)
    layout: str = field(metadata={"static": True}, default=LAYOUT_OF[TERNARY])

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Sizes of the stacked axes."""
        return tuple(self.shape[axis] for axis in self.stack_axes)

    @property
    def out_features(self) -> int:
        """Rows of the canonical matrix."""
        return math.prod(self.shape[axis] for axis in self.out_axes)

    @property
    def in_features(self) -> int:
        """Columns of the canonical matrix: the contracted size."""
        return math.prod(self.shape[axis] for axis in self.in_axes)

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """[*stack, out, in]."""
        return (*self.stack_shape, self.out_features, self.in_features)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales together."""
        codes = math.prod(self.codes.shape) * self.codes.dtype.itemsize
        return codes + math.prod(self.scale.shape) * self.scale.dtype.itemsize

    def codes_shape(self) -> tuple[int, ...]:
        """The shape `codes` must have."""
        shape = layout_of(self.layout).shape(self.out_features, self.in_features)
        return (*self.stack_shape, *shape)

    def codes_matrix(self) -> Any:
        """The canonical codes, int8 [*stack, out, in]."""
        return unpack_codes(self.codes, self.layout, self.out_features, self.in_features)

    def trits(self) -> Any:
        """The canonical trits, int8 [*stack, out, in].

        Raises:
          UsageError: the codes are of another kind (``tensor.kind``).
        """
        if self.kind != TERNARY:
            raise UsageError(
                "tensor.kind",
                f"a tensor of kind {self.kind} has no trits",
                "codes_matrix() gives its codes",
            )
        return self.codes_matrix()

    def weight(self) -> Any:
        """The canonical float32 matrix ``codes × scale``, [*stack, out, in]."""
        scale = broadcast_scale(self.scale, self.scale_kind, self.group_size)
        return self.codes_matrix().astype(np.float32) * scale

    def dequantize(self) -> Any:
        """The float parameter this stands for: `shape`, `dtype`."""
        xp = namespace(self.codes)
        order = (*self.stack_axes, *self.out_axes, *self.in_axes)
        weight = self.weight().reshape([self.shape[axis] for axis in order])
        return xp.transpose(weight, np.argsort(order)).astype(xp.dtype(self.dtype))

    def scale_shape(self) -> tuple[int, ...]:
        """The shape `scale` must have."""
        tails: dict[str, tuple[int, ...]] = {
            "tensor": (),
            "row": (self.out_features,),
            "group": (self.out_features, self.in_features // (self.group_size or 1)),
        }
        return (*self.stack_shape, *tails[self.scale_kind])

    def verify(self, name: str) -> None:
        """Raises `BadData` unless kind, layout, shapes and dtypes hold the invariants."""
        layout = layout_of(self.layout, name)
        if self.layout not in LAYOUTS_OF.get(self.kind, ()):
            raise BadData(
                "tensor.kind",
                f"`{name}` is of kind {self.kind!r} in layout {self.layout}",
                f"stored as: {kinds_in_words()}",
            )
        if self.group_size % layout.group_step:
            raise BadData(
                "tensor.group_size",
                f"`{name}` has a scale for every {self.group_size} inputs; layout {self.layout} "
                f"takes a multiple of {layout.group_step}",
                f"keep it in layout {LAYOUT_OF[self.kind]}",
            )
        found = (tuple(self.codes.shape), str(self.codes.dtype))
        if found != (self.codes_shape(), layout.dtype):
            raise BadData(
                "tensor.codes_shape",
                f"`{name}` needs codes {layout.dtype} {list(self.codes_shape())}, found "
                f"{found[1]} {list(found[0])}",
            )
        found = (tuple(self.scale.shape), str(self.scale.dtype))
        if found != (self.scale_shape(), "float32"):
            raise BadData(
                "tensor.scale_shape",
                f"`{name}` needs a {self.scale_kind} scale float32 {list(self.scale_shape())}, "
                f"found {found[1]} {list(found[0])}",
            )


def from_codes(
    codes: Any,
    scale: Any,
    *,
    kind: str = TERNARY,
    scale_kind: str = "tensor",
    group_size: int = 0,
    scale_dtype: str = "float32",
    dtype: str = "float32",
    layout: str | None = None,
) -> QuantTensor:
    """Packs int8 codes [*stack, out, in] of `kind` and their scale.

    Args:
      layout: one of the kind's; its first if None.
    """
    layout = layout or LAYOUT_OF[kind]
    stack = codes.ndim - 2
    return QuantTensor(
        codes=pack_codes(codes, layout),
        scale=scale,
        shape=tuple(codes.shape),
        dtype=dtype,
        stack_axes=tuple(range(stack)),
        out_axes=(stack,),
        in_axes=(stack + 1,),
        scale_kind=scale_kind,
        group_size=group_size,
        scale_dtype=scale_dtype,
        kind=kind,
        layout=layout,
    )


def broadcast_scale(scale: Any, scale_kind: str, group_size: int) -> Any:
    """Shapes `scale` so that it broadcasts against [..., out, in] weights."""
    if scale_kind == "tensor":
        return scale[..., None, None]
    if scale_kind == "row":
        return scale[..., None]
    return namespace(scale).repeat(scale, group_size, axis=-1)


def is_quant(leaf: Any) -> bool:
    """True for a `QuantTensor`: the `is_leaf` of tree functions over packed params."""
    return isinstance(leaf, QuantTensor)
