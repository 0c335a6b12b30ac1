"""One parameter to the bytes of a GGUF tensor: trits and scales to blocks, floats to their type.

First it is planned where scales go (inside the blocks, in a ``.scale`` tensor, or in `gguf_table`'s
table); then it is encoded. What a type cannot hold is refused. Knows no key of any architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitnet_jax.containers import gguf_ternary as blocks
from bitnet_jax.containers.gguf_blocks import CODECS, FLOATS
from bitnet_jax.containers.gguf_ternary import BLOCKED
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats.gguf_rotary import interleave
from bitnet_jax.formats.gguf_table import Kept
from bitnet_jax.quant.finite import is_finite
from bitnet_jax.quant.tensor import TERNARY, QuantTensor, broadcast_scale


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


def encode_float(name: str, value: np.ndarray, kind: str) -> tuple[np.ndarray, bool]:
    """The bytes of a float tensor, or of some rows, and whether they hold them exactly.

    Raises:
      CannotCreate: a value becomes infinite in `kind` (``gguf.range``).
    """
    if value.dtype == FLOATS.get(kind):
        return value, True
    codec, shape = CODECS[kind], value.shape
    wide = value if value.dtype == np.float64 else value.astype(np.float32)
    assert codec.encode is not None  # what is only read is no encoding
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(codec.encode(wide)).reshape(-1).view(np.uint8)
    again = codec.decode(data, shape)
    if not is_finite(again) and is_finite(wide):
        raise CannotCreate(
            "gguf.range",
            f"`{name}` holds values that become infinite as {kind}",
            "use bf16 or f32 for it",
        )
    return data, bool(np.array_equal(again, wide, equal_nan=True))
