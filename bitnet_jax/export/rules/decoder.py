"""Rules: the ops of decoders as ONNX's own operators of them (opsets 23 and 24).

Axes of [batch, length, heads, head_dim] are put in ONNX's order, [batch, heads, length,
head_dim]; two such moves are none (`Builder.transpose`), so that most vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from bitnet_jax.export.lowering import WIDER, Lowering, Rule
from bitnet_jax.export.rules.shapes import arange
from bitnet_jax.ops.rotary.reference import frequencies
from bitnet_jax.ops.weight_note.reference import weight_note_reference

HEADS_FIRST = (0, 2, 1, 3)  # its own inverse


def _floats(low: Lowering, eqn: Any, values: Sequence[str], count: int) -> list[str]:
    """The first `count` operands as float32."""
    wide = []
    for var, value in list(zip(eqn.invars, values, strict=True))[:count]:
        dtype = str(var.aval.dtype)
        if dtype != "float32" and dtype not in ("bfloat16", "float16"):
            raise low.refuse(eqn, f"an operand of {dtype}", "export with float32 caches")
        wide.append(value if dtype == "float32" else low.builder.cast(value, "float32"))
    return wide


def _back(low: Lowering, eqn: Any, y: str, index: int = 0) -> str:
    dtype = str(eqn.outvars[index].aval.dtype)
    return low.builder.cast(y, dtype) if dtype in WIDER else y


def _rms_norm(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    x, weight = _floats(low, eqn, values, 2)
    y = low.builder.op("RMSNormalization", x, weight, axis=-1, epsilon=eqn.params["eps"])
    return [_back(low, eqn, y)]


def _relu2(b: Any, gate: str) -> str:
    positive = b.op("Relu", gate)
    return b.op("Mul", positive, positive)


# As ops.gated_activation.reference has them.
GATES: dict[str, Callable[[Any, str], str]] = {
    "relu2": _relu2,
    "silu": lambda b, gate: b.op("Mul", gate, b.op("Sigmoid", gate)),
    "gelu_tanh": lambda b, gate: b.op("Gelu", gate, approximate="tanh"),
}


def _gated(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    gate, up = _floats(low, eqn, values, 2)
    kind = eqn.params["kind"]
    if kind not in GATES:
        raise low.refuse(eqn, f"the gate `{kind}`", "known: " + ", ".join(GATES))
    return [_back(low, eqn, low.builder.op("Mul", GATES[kind](low.builder, gate), up))]


def rotated(
    low: Lowering, x: str, positions: str, head_dim: int, theta: float, scaling: tuple[Any, ...]
) -> str:
    """RotaryEmbedding of x [batch, length, heads, head_dim], its axes as they were."""
    b = low.builder
    at = b.unsqueeze(b.cast(positions, "float32"), 2)
    # [batch, length, half]
    angles = b.op("Mul", at, b.const(frequencies(head_dim, theta, scaling)))
    x = b.transpose(x, HEADS_FIRST)
    y = b.op("RotaryEmbedding", x, b.op("Cos", angles), b.op("Sin", angles))
    return b.transpose(y, HEADS_FIRST)


def _rotary(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    (x,) = _floats(low, eqn, values, 1)
    head_dim, how = eqn.invars[0].aval.shape[-1], eqn.params
    y = rotated(low, x, values[1], head_dim, how["theta"], how.get("scaling", ()))
    return [_back(low, eqn, y)]


def attended(low: Lowering, q: str, k: str, v: str, positions: str, keys: Any, window: int) -> str:
    """Attention of q [batch, length, heads, head_dim] over `keys` keys at their own index.

    Args:
      window: how many keys a query sees at most; 0: all before it.
    """
    b = low.builder
    index = b.unsqueeze(arange(low, keys), 0, 1)  # [1, 1, keys]
    at = b.unsqueeze(b.cast(positions, "int64"), 2)
    seen = b.op("LessOrEqual", index, at)
    if window:
        seen = b.op("And", seen, b.op("Greater", index, b.op("Sub", at, b.ints([window]))))
    q, k, v = (b.transpose(x, HEADS_FIRST) for x in (q, k, v))
    # Grouped queries by the sizes alone: 4-D operands say how many heads there are.
    y = b.op("Attention", q, k, v, b.unsqueeze(seen, 1))
    return b.transpose(y, HEADS_FIRST)


def _attention(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    q, k, v = _floats(low, eqn, values, 3)
    window = eqn.params.get("window", 0)
    y = attended(low, q, k, v, values[3], eqn.invars[1].aval.shape[1], window)
    return [_back(low, eqn, y)]


def written(
    low: Lowering, buffer: str, new: str, positions: str, shape: Sequence[Any], length: Any
) -> str:
    """Rows of `new` [batch, length, …] in `buffer`, from each row's first position on.

    ScatterND, in the order of axes that the buffer has already. ONNX's own operator for it,
    TensorScatter, is what a runtime may do in place, and ONNX Runtime 1.32 warns at each call
    that it does not.
    """
    b = low.builder
    rank = len(shape)
    start = b.cast(b.slice(positions, 1, 0, 1), "int64")  # [batch, 1]
    most = low.dims.scalar(shape[1] - length)
    # A run that does not fit is moved down, as `cache_write` has it.
    start = b.op("Max", b.op("Min", start, most), low.scalar(0, "int64"))
    rows = b.op("Add", start, b.unsqueeze(arange(low, length), 0))  # [batch, length]
    base, perm = b.transposed.get(buffer, (buffer, tuple(range(rank))))
    inverse = [perm.index(axis) for axis in range(rank)]
    # Indices go as deep as the axes of rows and entries; what stands behind is written whole.
    depth = max(perm[:2]) + 1
    axes = inverse[:depth]  # of `shape`, in the base's order
    sizes = [length if axis == 1 else shape[axis] for axis in axes]
    if perm[0] > perm[1]:
        rows = b.transpose(rows, (1, 0))
    parts = []
    for place, axis in enumerate(axes):
        if axis == 1:
            index = low.reshape(rows, *_spread(sizes, sorted(perm[:2])))
        else:
            index = low.reshape(arange(low, shape[axis]), *_spread(sizes, [place]))
        parts.append(b.unsqueeze(b.op("Expand", index, low.dims.shape(sizes)), depth))
    indices = b.op("Concat", *parts, axis=depth)
    return b.transpose(b.op("ScatterND", base, indices, b.transpose(new, inverse)), perm)


def _spread(sizes: Sequence[Any], places: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """The shape of some axes of `sizes` alone, and with the others there as 1."""
    alone = [sizes[place] for place in places]
    return alone, [size if place in places else 1 for place, size in enumerate(sizes)]


def _cache_write(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    buffer, new, positions = values
    avals = [var.aval for var in eqn.invars]
    buffer_dtype, dtype = str(avals[0].dtype), str(avals[1].dtype)
    if "float" not in buffer_dtype:
        raise low.refuse(eqn, f"a cache of {buffer_dtype}", "export with float32 caches")
    new = new if dtype == buffer_dtype else low.builder.cast(new, buffer_dtype)
    return [written(low, buffer, new, positions, avals[0].shape, avals[1].shape[1])]


def _cached_attention(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    """The ops that it stands for, as its reference has them."""
    q, k, v, positions, keys, values_ = values
    avals, theta = [var.aval for var in eqn.invars], eqn.params["theta"]
    head_dim, shape, length = avals[0].shape[-1], avals[4].shape, avals[1].shape[1]
    if {str(a.dtype) for a in (*avals[:3], *avals[4:])} != {"float32"}:
        raise low.refuse(eqn, "operands that are not float32", "export with float32 caches")
    scaling, window = eqn.params.get("scaling", ()), eqn.params.get("window", 0)
    k = rotated(low, k, positions, head_dim, theta, scaling)
    keys = written(low, keys, k, positions, shape, length)
    values_ = written(low, values_, v, positions, shape, length)
    q = rotated(low, q, positions, head_dim, theta, scaling)
    return [attended(low, q, keys, values_, positions, shape[1], window), keys, values_]


def _weight_note(low: Lowering, eqn: Any, values: Sequence[str]) -> list[Any]:
    # A note that masks is packed into codes; on a float that stayed one it means its reference.
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    note = eqn.params["note"]
    closed = jax.make_jaxpr(lambda w, *arrays: weight_note_reference(w, *arrays, note=note))(*avals)
    return low.inside(eqn).run(closed.jaxpr, closed.consts, values)


RULES: dict[str, Rule] = {
    "attention": _attention,
    "cache_write": _cache_write,
    "cached_attention": _cached_attention,
    "gated_activation": _gated,
    "rms_norm": _rms_norm,
    "rotary": _rotary,
    "weight_note": _weight_note,
}
