"""Rules: the ops on packed weights, by integers that are exact, or by MatMulNBits.

The float32 operations stand in the order of the numerics contract (docs/decisions/0002); sums
over groups are ReduceSum, whose order is the runtime's. A token that is not finite is not
refused: what a runtime rounds it to is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bitnet_jax.export.lowering import WIDER, Lowering, Rule
from bitnet_jax.export.rules.elementwise import where
from bitnet_jax.export.rules.indexing import clamped
from bitnet_jax.export.weights import nbits_product
from bitnet_jax.quant.activations import DEFAULT, EPSILON, Activation


def _float(low: Lowering, x: str, dtype: str) -> str:
    return x if dtype == "float32" else low.builder.cast(x, "float32")


def _f32(low: Lowering, value: float | np.float32) -> str:
    return low.scalar(value, np.float32)


def _quantized(low: Lowering, x: str, activation: Activation, peak: str | None) -> tuple[str, str]:
    """INT8 activations of float32 x [..., in], and the token's scale [..., 1]."""
    b = low.builder
    if peak is None:
        op = {"absmax": "ReduceMax", "absmean": "ReduceMean"}[activation.statistic]
        peak = b.op(op, b.op("Abs", x), b.ints([-1]), keepdims=1)
    if activation.statistic == "absmax":
        a = divisor = b.op("Max", peak, _f32(low, EPSILON))
    else:
        a, divisor = peak, b.op("Add", peak, _f32(low, EPSILON))
    scaled = b.op("Mul", x, b.op("Div", _f32(low, activation.spread), divisor))
    limits = _f32(low, activation.low), _f32(low, activation.high)
    q = b.cast(b.op("Clip", b.op("Round", scaled), *limits), "int8")
    return q, b.op("Mul", a, _f32(low, activation.inverse))


def _matmul(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[str]:
    """`ternary_matmul` and `integer_matmul`: x [B, M, in], codes [B, …], scale [B, …]."""
    x, codes, scale, *rest = values
    p, b = eqn.params, low.builder
    aval, out = eqn.invars[0].aval, str(eqn.outvars[0].aval.dtype)
    activation = p.get("activation", DEFAULT)
    x = _float(low, x, str(aval.dtype))
    block = low.weights.blocks(codes) if activation == DEFAULT and not rest else None
    if block is not None:
        y = nbits_product(low.weights, x, codes, scale, block)
        return [y if out == "float32" else b.cast(y, out)]
    peak = _float(low, rest[0], str(eqn.invars[3].aval.dtype)) if rest else None
    q, by_token = _quantized(low, x, activation, peak)
    matrix, shape = low.weights.matrix(codes)  # [in, out] where B is 1
    if p["scale_kind"] == "group":
        y = _grouped(low, q, (matrix, shape), scale, aval.shape, p)
        y = b.op("Mul", y, by_token)
    else:
        acc = b.cast(_apart(low, b.op("MatMulInteger", q, matrix), p, aval), "float32")
        axes = (1, 2) if p["scale_kind"] == "tensor" else (1,)
        wide = b.unsqueeze(scale, *axes)
        y = b.op("Mul", acc, b.op("Mul", wide, by_token))
    return [y if out == "float32" else b.cast(y, out)]


def _apart(low: Lowering, acc: str, p: Any, x: Any) -> str:
    """`acc` [B, M, out] as it is, by a Reshape, which costs nothing.

    ONNX Runtime puts MatMulInteger, Cast and two Muls into one node whose scales are the
    tensor's and the token's, multiplied in another order than the contract's; not across this.
    """
    sizes = [int(x.shape[0]), -1, int(p["out_features"])]
    return low.builder.op("Reshape", acc, low.builder.ints(sizes))


def _grouped(
    low: Lowering, q: str, codes: tuple[str, list[int]], scale: str, shape: Sequence[Any], p: Any
) -> str:
    """Each group's sum by itself, times its scale [B, out, G], added up: [B, M, out]."""
    b, size, outputs = low.builder, p["group_size"], p["out_features"]
    stack, tokens, groups = shape[0], shape[1], shape[2] // size
    q = low.reshape(q, shape, [stack, tokens, groups, size])
    q = b.transpose(q, (0, 2, 1, 3))  # [B, G, M, size]
    matrix = low.reshape(*codes, [stack, groups, size, outputs])
    acc = b.cast(b.op("MatMulInteger", q, matrix), "float32")  # [B, G, M, out]
    by_group = b.unsqueeze(b.transpose(scale, (0, 2, 1)), 2)  # [B, G, 1, out]
    return b.op("ReduceSum", b.op("Mul", acc, by_group), b.ints([1]), keepdims=0)


def _accumulate(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[str]:
    return [low.builder.op("MatMulInteger", values[0], low.weights.matrix(values[1])[0])]


def _lookup(low: Lowering, eqn: Any, values: Sequence[Any]) -> list[str]:
    """Rows of packed codes [B, …] by indices [B, N]: [B, N, in]."""
    codes, scale, indices = values
    p, b = eqn.params, low.builder
    stack = codes.lead[0]
    if stack != 1:
        raise low.refuse(eqn, "a lookup in stacked tables", "look one table up at a time")
    rows, out = p["out_features"], p["out_dtype"]
    ids = b.squeeze(b.cast(indices, "int64"), 0)
    if p["wrap_negative"]:
        negative = b.op("Less", ids, low.scalar(0, "int64"))
        ids = b.op("Where", negative, b.op("Add", ids, low.scalar(rows, "int64")), ids)
    safe = clamped(low, ids, low.scalar(rows - 1, "int64"))
    name, shape = low.weights.matrix(codes)
    matrix = low.reshape(name, shape, shape[-2:])  # [in, out]
    found = b.transpose(b.op("Gather", matrix, safe, axis=1), (1, 0))  # [N, in]
    own = b.squeeze(scale, 0)  # [], [out] or [out, G]
    if p["scale_kind"] != "tensor":
        own = b.op("Gather", own, safe, axis=0)
        if p["scale_kind"] == "group":
            size, groups = p["group_size"], p["in_features"] // p["group_size"]
            wide = b.op("Expand", b.unsqueeze(own, 2), b.ints([1, groups, size]))
            own = b.op("Reshape", wide, b.ints([-1, p["in_features"]]))
        else:
            own = b.unsqueeze(own, 1)
    y = b.op("Mul", b.cast(found, "float32"), own)
    y = y if out == "float32" else b.cast(y, out)
    if p["mode"] == "fill":
        fill = low.scalar(np.nan if p["fill_value"] is None else p["fill_value"], np.float32)
        fill = fill if out == "float32" else b.cast(fill, out)
        y = where(b, b.unsqueeze(b.op("Equal", safe, ids), 1), y, fill, out)
    return [b.unsqueeze(y, 0)]


def _dense(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    """`dense_matmul`: x float32 [..., in] by w [out, in]."""
    dtype = str(eqn.invars[1].aval.dtype)
    w = low.builder.cast(values[1], "float32") if dtype in WIDER else values[1]
    return [low.builder.op("MatMul", values[0], low.builder.transpose(w, (1, 0)))]


RULES: dict[str, Rule] = {"dense_matmul": _dense}

ON_CODES: dict[str, Rule] = {
    "integer_matmul": _matmul,
    "quantized_lookup": _lookup,
    "ternary_accumulate": _accumulate,
    "ternary_matmul": _matmul,
}
