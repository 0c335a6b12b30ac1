"""Quantized tensors: to codes and back, and products of codes in int32, as in ONNX Runtime.

Integer products are exact. What is quantized while running (`DynamicQuantizeLinear`) follows the
standard's order of float32 operations, since one last bit may flip a code.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bitnet_jax.containers.onnx_types import TYPES
from bitnet_jax.formats.onnx_ops.images import convolve, over_channels
from bitnet_jax.formats.onnx_ops.products import PRECISION
from bitnet_jax.formats.onnx_ops.table import MICROSOFT, Node, axis_of, cast, operator, xp


def along(node: Node, value: Any, x: Any) -> Any:
    """A scale or a zero point laid over `x`: one, one along `axis`, or one for a block of it."""
    if value is None or value.size == 1:
        return None if value is None else value.reshape(())
    axis = axis_of(node, node.get("axis", 1), x.ndim)
    block = node.get("block_size", 0)
    lib = xp(value)
    if block:
        return lib.repeat(value, block, axis=axis)[tuple(slice(n) for n in x.shape)]
    return lib.reshape(value, [-1 if i == axis else 1 for i in range(x.ndim)])


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", domain=MICROSOFT)
def dequantize(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    lib = xp(x, scale)
    s, z = along(node, scale, x), along(node, zero, x)
    wide = cast(x, np.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x
    if z is not None and jnp.issubdtype(x.dtype, jnp.integer):
        wide = wide - cast(lib.asarray(z), np.int32)
    return cast(cast(wide, np.float32) * cast(lib.asarray(s), np.float32), scale.dtype)


def ratio(x: Any, scale: Any) -> Any:
    """``x / scale``, correctly rounded.

    XLA makes a division by one number a product with its inverse, which rounds twice: of 16,384
    normal numbers 91 came out otherwise. A code at a half would flip.
    """
    if xp(x, scale) is np:
        return x / scale
    return x / jax.lax.optimization_barrier(jnp.broadcast_to(jnp.asarray(scale), x.shape))


def _limits(dtype: Any) -> tuple[int, int]:
    info: Any = jnp.iinfo(dtype)
    return int(info.min), int(info.max)


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", domain=MICROSOFT)
def quantize(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    kind = node.get("output_dtype", 0)
    dtype = np.dtype(TYPES[kind].numpy) if kind else zero.dtype if zero is not None else np.uint8
    if not jnp.issubdtype(dtype, jnp.integer):
        raise node.unsupported(f"quantization to {dtype}")
    lib = xp(x, scale)
    codes = lib.rint(ratio(x, along(node, scale, x)))
    return _clamped(codes, along(node, zero, x), dtype)


def _clamped(codes: Any, zero: Any, dtype: Any) -> Any:
    """Rounded values with the zero point added, kept inside of `dtype`."""
    lib = xp(codes)
    if zero is not None:
        codes = codes + cast(lib.asarray(zero), codes.dtype)
    return cast(lib.clip(codes, *_limits(dtype)), dtype)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize(node: Node, x: Any) -> Any:
    """uint8 codes, their scale and zero point, of the range of `x` with 0 in it."""
    low, high = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    scale = ratio(high - low, np.float32(255))
    scale = jnp.where(scale == 0, np.float32(1), scale)
    zero = jnp.clip(jnp.rint(0 - ratio(low, scale)), 0, 255)
    return _clamped(jnp.rint(ratio(x, scale)), zero, jnp.uint8), scale, zero.astype(jnp.uint8)


# -------------------------------------------------------------------------- products
def centred(x: Any, zero: Any, per: int) -> Any:
    """Codes less their zero point, in int32; a vector of them goes along axis `per`."""
    wide = jnp.asarray(x).astype(jnp.int32)
    if zero is None:
        return wide
    zero = jnp.asarray(zero).astype(jnp.int32)
    if zero.size == 1:
        zero = zero.reshape(())
    elif zero.ndim == 1:
        zero = zero.reshape([-1 if i == per % x.ndim else 1 for i in range(x.ndim)])
    return wide - zero


@operator("MatMulInteger", since=10)
def matmul_integer(node: Node, x: Any, y: Any, x_zero: Any = None, y_zero: Any = None) -> Any:
    return jnp.matmul(centred(x, x_zero, -2), centred(y, y_zero, -1))


def _rows(value: Any, rank: int, per: int) -> Any:
    """A scale for a product's result."""
    value = jnp.asarray(value)
    if value.size == 1:
        return value.reshape(())
    return value.reshape([-1 if i == per % rank else 1 for i in range(rank)]) if (
        value.ndim == 1
    ) else value  # fmt: skip


@operator("QLinearMatMul", since=10)
def qlinear_matmul(
    node: Node, x: Any, x_scale: Any, x_zero: Any, y: Any, y_scale: Any, y_zero: Any,
    scale: Any, zero: Any,
) -> Any:  # fmt: skip
    total = matmul_integer(node, x, y, x_zero, y_zero)
    factor = _rows(x_scale, total.ndim, -2) * _rows(y_scale, total.ndim, -1) / scale
    return _clamped(jnp.rint(total.astype(jnp.float32) * factor), zero, zero.dtype)


def _convolved(node: Node, x: Any, w: Any, x_zero: Any, w_zero: Any) -> Any:
    return convolve(node, centred(x, x_zero, 1), centred(w, w_zero, 0), jnp.int32)


@operator("ConvInteger", since=10)
def conv_integer(node: Node, x: Any, w: Any, x_zero: Any = None, w_zero: Any = None) -> Any:
    return _convolved(node, x, w, x_zero, w_zero)


@operator("QLinearConv", since=10)
def qlinear_conv(
    node: Node, x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any,
    scale: Any, zero: Any, bias: Any = None,
) -> Any:  # fmt: skip
    total = _convolved(node, x, w, x_zero, w_zero)
    if bias is not None:
        total = total + over_channels(bias, x.ndim)
    factor = x_scale * w_scale / scale
    factor = over_channels(factor, x.ndim) if factor.size > 1 else factor.reshape(())
    return _clamped(jnp.rint(total.astype(jnp.float32) * factor), zero, zero.dtype)


# -------------------------------------------------------------------- com.microsoft
@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(
    node: Node, x: Any, y: Any, scale: Any, zero: Any = None, bias: Any = None
) -> Any:
    codes, x_scale, x_zero = dynamic_quantize(node, x)
    return matmul_to_float(node, codes, y, x_scale, scale, x_zero, zero, bias)


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_to_float(
    node: Node, x: Any, y: Any, x_scale: Any, y_scale: Any, x_zero: Any = None,
    y_zero: Any = None, bias: Any = None,
) -> Any:  # fmt: skip
    total = matmul_integer(node, x, y, x_zero, y_zero)
    factor = _rows(x_scale, total.ndim, -2) * _rows(y_scale, total.ndim, -1)
    found = total.astype(jnp.float32) * factor
    return found if bias is None else found + bias


def codes_of(packed: Any, bits: int, count: int) -> Any:
    """The last axis' bytes spread into codes, the first in the lowest bits; `count` of them."""
    per, lib = 8 // bits, xp(packed)
    if bits == 8:
        return packed[..., :count]
    shifts = lib.arange(per, dtype=np.uint8) * np.uint8(bits)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


def nbits_weight(node: Node, packed: Any, scale: Any, zero: Any = None) -> Any:
    """The float matrix [N, K] of a MatMulNBits."""
    columns, inner = node.need("N"), node.need("K")
    bits, block = node.get("bits", 4), node.need("block_size")
    if bits not in (2, 4, 8):
        raise node.unsupported(f"{bits} bits")
    blocks, lib = -(-inner // block), xp(packed, scale)
    codes = codes_of(lib.reshape(packed, (columns, blocks, -1)), bits, block)
    scale = lib.reshape(scale, (columns, blocks, 1))
    middle: Any = float(1 << bits - 1)
    if zero is not None and zero.dtype == np.uint8:
        zero = codes_of(lib.reshape(zero, (columns, -1)), bits, blocks)
        middle = cast(lib.reshape(zero, (columns, blocks, 1)), np.float32)
    elif zero is not None:
        middle = cast(lib.reshape(zero, (columns, blocks, 1)), np.float32)
    weight = (cast(codes, np.float32) - middle) * scale
    return cast(lib.reshape(weight, (columns, -1))[:, :inner], scale.dtype)


@operator(
    "MatMulNBits", domain=MICROSOFT,
    notes="in float32 (accuracy_level 0 to 1); ONNX Runtime rounds activations at level 4",
)  # fmt: skip
def matmul_nbits(
    node: Node, x: Any, packed: Any, scale: Any, zero: Any = None, order: Any = None,
    bias: Any = None,
) -> Any:  # fmt: skip
    if order is not None:
        raise node.unsupported("`g_idx`")
    weight = nbits_weight(node, packed, scale, zero)
    found = jnp.matmul(x, jnp.asarray(weight).T, precision=PRECISION)
    return found if bias is None else found + bias


@operator("GatherBlockQuantized", domain=MICROSOFT, notes="along the first axis")
def gather_blocks(node: Node, data: Any, indices: Any, scales: Any, zeros: Any = None) -> Any:
    bits, block = node.get("bits", 4), node.get("block_size", 128)
    if node.get("gather_axis", 0) != 0 or node.get("quantize_axis", data.ndim - 1) % data.ndim != (
        data.ndim - 1
    ):
        raise node.unsupported("another axis than the first, or blocks along another than the last")
    rows, s = jnp.take(data, indices, 0), jnp.take(scales, indices, 0)
    z = None if zeros is None else jnp.take(zeros, indices, 0)
    unsigned = data.dtype in (np.uint8, ml_dtypes.uint4)
    if data.dtype == np.uint8 and bits < 8:
        rows = codes_of(rows, bits, rows.shape[-1] * 8 // bits)
        z = None if z is None else codes_of(z, bits, s.shape[-1])
    middle = jnp.repeat(z, block, -1)[..., : rows.shape[-1]].astype(jnp.float32) if (
        z is not None
    ) else float(1 << bits - 1) * unsigned * (data.dtype == np.uint8)  # fmt: skip
    wide = jnp.repeat(s, block, -1)[..., : rows.shape[-1]]
    return (rows.astype(jnp.float32) - middle).astype(s.dtype) * wide


def _qlinear(name: str, function: Any) -> None:
    """Two quantized inputs to one quantized result."""

    def run(
        node: Node, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any,
        scale: Any, zero: Any = None,
    ) -> Any:  # fmt: skip
        x = centred(a, a_zero, 0).astype(jnp.float32) * a_scale
        y = centred(b, b_zero, 0).astype(jnp.float32) * b_scale
        return _clamped(jnp.rint(ratio(function(x, y), scale)), zero, a.dtype)

    operator(name, domain=MICROSOFT)(run)


_qlinear("QLinearAdd", jnp.add)
_qlinear("QLinearMul", jnp.multiply)


def _qlinear_one(name: str, function: Any) -> None:
    def run(
        node: Node, x: Any, x_scale: Any, x_zero: Any, scale: Any, zero: Any = None
    ) -> Any:  # fmt: skip
        value = function(node, centred(x, x_zero, 0).astype(jnp.float32) * x_scale)
        return _clamped(jnp.rint(ratio(value, scale)), zero, x.dtype)

    operator(name, domain=MICROSOFT)(run)


_qlinear_one("QLinearSigmoid", lambda node, x: jax.nn.sigmoid(x))
_qlinear_one("QLinearLeakyRelu", lambda node, x: jnp.where(x >= 0, x, node.get("alpha", 0.01) * x))
_qlinear_one(
    "QLinearGlobalAveragePool",
    lambda node, x: jnp.mean(
        x, tuple(range(1, x.ndim - 1) if node.get("channels_last", 0) else range(2, x.ndim)),
        keepdims=True,
    ),
)  # fmt: skip


@operator("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(node: Node, scale: Any, zero: Any, *rest: Any) -> Any:
    parts = [
        _clamped(jnp.rint(centred(x, z, 0).astype(jnp.float32) * s / scale), zero, zero.dtype)
        for x, s, z in zip(rest[0::3], rest[1::3], rest[2::3], strict=True)
    ]
    return jnp.concatenate(parts, node.need("axis"))


@operator("QGemm", domain=MICROSOFT)
def qgemm(
    node: Node, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any,
    c: Any = None, scale: Any = None, zero: Any = None,
) -> Any:  # fmt: skip
    x, y = centred(a, a_zero, 0), centred(b, b_zero, 0 if node.get("transB", 0) else 1)
    x = x.T if node.get("transA", 0) else x
    y = y.T if node.get("transB", 0) else y
    total = jnp.matmul(x, y)
    total = total if c is None else total + c
    found = total.astype(jnp.float32) * (node.get("alpha", 1.0) * a_scale * b_scale)
    return found if scale is None else _clamped(jnp.rint(ratio(found, scale)), zero, zero.dtype)
