"""Operators that take elements one by one: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.containers.onnx_types import TYPES
from bitnet_jax.formats.onnx_ops.table import MICROSOFT, Node, cast, is_static, operator, xp


def is_float(value: Any) -> bool:
    """True for floats of any width."""
    return bool(jnp.issubdtype(value.dtype, jnp.floating))


# ------------------------------------------------------------------------- one input
_UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "Abs": lambda lib, x: lib.abs(x),
    "Acos": lambda lib, x: lib.arccos(x),
    "Acosh": lambda lib, x: lib.arccosh(x),
    "Asin": lambda lib, x: lib.arcsin(x),
    "Asinh": lambda lib, x: lib.arcsinh(x),
    "Atan": lambda lib, x: lib.arctan(x),
    "Atanh": lambda lib, x: lib.arctanh(x),
    "BitwiseNot": lambda lib, x: lib.invert(x),
    "Ceil": lambda lib, x: lib.ceil(x),
    "Cos": lambda lib, x: lib.cos(x),
    "Cosh": lambda lib, x: lib.cosh(x),
    "Exp": lambda lib, x: lib.exp(x),
    "Floor": lambda lib, x: lib.floor(x),
    "IsNaN": lambda lib, x: lib.isnan(x),
    "Log": lambda lib, x: lib.log(x),
    "Neg": lambda lib, x: lib.negative(x),
    "Not": lambda lib, x: lib.logical_not(x),
    "Reciprocal": lambda lib, x: 1 / x,
    "Relu": lambda lib, x: lib.maximum(x, lib.zeros((), x.dtype)),
    "Round": lambda lib, x: lib.rint(x),
    "Sign": lambda lib, x: lib.sign(x),
    "Sin": lambda lib, x: lib.sin(x),
    "Sinh": lambda lib, x: lib.sinh(x),
    "Softsign": lambda lib, x: x / (1 + lib.abs(x)),
    "Sqrt": lambda lib, x: lib.sqrt(x),
    "Tan": lambda lib, x: lib.tan(x),
    "Tanh": lambda lib, x: lib.tanh(x),
}


def _unary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def run(node: Node, x: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(xp(x), x)

    return run


for _name, _function in _UNARY.items():
    operator(_name)(_unary(_function))

operator("Erf")(lambda node, x: jax.lax.erf(jnp.asarray(x)))
operator("Sigmoid")(lambda node, x: jax.nn.sigmoid(jnp.asarray(x)))
operator("Softplus")(lambda node, x: jax.nn.softplus(jnp.asarray(x)))
operator("Mish")(lambda node, x: x * jnp.tanh(jax.nn.softplus(jnp.asarray(x))))
operator("Identity", "OptionalGetElement")(lambda node, x: x)


def _alpha(name: str, default: float, function: Callable[[Any, float], Any]) -> None:
    operator(name)(lambda node, x: function(x, node.get("alpha", default)))


_alpha("Elu", 1.0, lambda x, a: jnp.where(x > 0, x, a * jnp.expm1(jnp.minimum(x, 0))))
_alpha("LeakyRelu", 0.01, lambda x, a: jnp.where(x >= 0, x, a * x))
_alpha("ThresholdedRelu", 1.0, lambda x, a: jnp.where(x > a, x, jnp.zeros((), x.dtype)))
_alpha("Swish", 1.0, lambda x, a: x * jax.nn.sigmoid(a * x))
_alpha("Celu", 1.0, lambda x, a: jnp.where(x > 0, x, a * jnp.expm1(jnp.minimum(x, 0) / a)))


@operator("Selu")
def selu(node: Node, x: Any) -> Any:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813)
    return gamma * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Any) -> Any:
    return jnp.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("HardSwish")
def hard_swish(node: Node, x: Any) -> Any:
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


@operator("Shrink")
def shrink(node: Node, x: Any) -> Any:
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    return jnp.where(x < -limit, x + bias, jnp.where(x > limit, x - bias, jnp.zeros((), x.dtype)))


@operator("Gelu", since=20)
def gelu(node: Node, x: Any) -> Any:
    return jax.nn.gelu(jnp.asarray(x), approximate=node.get("approximate", "none") == "tanh")


@operator("IsInf")
def is_inf(node: Node, x: Any) -> Any:
    lib = xp(x)
    found = lib.zeros(x.shape, bool)
    if node.get("detect_positive", 1):
        found = found | (x == np.inf)
    if node.get("detect_negative", 1):
        found = found | (x == -np.inf)
    return found


# ------------------------------------------------------------------------ two inputs
_BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "Add": lambda lib, x, y: lib.add(x, y),
    "And": lambda lib, x, y: lib.logical_and(x, y),
    "BitwiseAnd": lambda lib, x, y: lib.bitwise_and(x, y),
    "BitwiseOr": lambda lib, x, y: lib.bitwise_or(x, y),
    "BitwiseXor": lambda lib, x, y: lib.bitwise_xor(x, y),
    "Equal": lambda lib, x, y: lib.equal(x, y),
    "Greater": lambda lib, x, y: lib.greater(x, y),
    "GreaterOrEqual": lambda lib, x, y: lib.greater_equal(x, y),
    "Less": lambda lib, x, y: lib.less(x, y),
    "LessOrEqual": lambda lib, x, y: lib.less_equal(x, y),
    "Mul": lambda lib, x, y: lib.multiply(x, y),
    "Or": lambda lib, x, y: lib.logical_or(x, y),
    "PRelu": lambda lib, x, y: lib.where(x < 0, x * y, x),
    "Sub": lambda lib, x, y: lib.subtract(x, y),
    "Xor": lambda lib, x, y: lib.logical_xor(x, y),
}


def _binary(function: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    def run(node: Node, x: Any, y: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(xp(x, y), x, y)

    return run


def _old_broadcast(node: Node, x: Any, y: Any) -> Any:
    """Before opset 7 the second input was laid along an axis."""
    axis = node.get("axis")
    if node.get("broadcast", 0) and axis is not None:
        after = x.ndim - axis % x.ndim - y.ndim
        y = xp(y).reshape(y, (*y.shape, *(1,) * after))
    return y


for _name, _two in _BINARY.items():
    operator(_name)(_binary(_two))
for _name in ("Add", "Sub", "Mul", "And", "Or", "Xor", "Equal", "Greater", "Less"):
    _run = _binary(_BINARY[_name])
    operator(_name, since=7)(_run)
    operator(_name, since=1)(
        functools.partial(lambda run, node, x, y: run(node, x, _old_broadcast(node, x, y)), _run)
    )


@operator("Div")
def div(node: Node, x: Any, y: Any) -> Any:
    """Integers are divided towards zero."""
    y = _old_broadcast(node, x, y)
    with np.errstate(all="ignore"):
        if is_float(x):
            return xp(x, y).divide(x, y)
        if is_static(x, y):
            found = np.abs(x) // np.abs(np.where(y == 0, 1, y))
            return (found * np.sign(x) * np.sign(y)).astype(x.dtype)
    x, y = jnp.broadcast_arrays(x, y)
    return jax.lax.div(x, y.astype(x.dtype))


@operator("Mod")
def mod(node: Node, x: Any, y: Any) -> Any:
    lib = xp(x, y)
    return lib.fmod(x, y) if node.get("fmod", 0) else lib.mod(x, y)


@operator("Pow")
def power(node: Node, x: Any, y: Any) -> Any:
    """The result has the first input's type."""
    lib = xp(x, y)
    if is_static(y) and y.size == 1 and y.ndim <= x.ndim and is_float(x):
        exponent = float(y.reshape(()))
        if exponent in (2.0, 3.0):
            return x * x if exponent == 2.0 else x * x * x
        if exponent == 0.5:
            return lib.sqrt(x)
    with np.errstate(all="ignore"):
        if is_float(x):
            return cast(lib.power(x, cast(y, x.dtype)), x.dtype)
        return cast(lib.power(x, y), x.dtype)


@operator("BitShift")
def bit_shift(node: Node, x: Any, y: Any) -> Any:
    lib = xp(x, y)
    return lib.left_shift(x, y) if node.need("direction") == "LEFT" else lib.right_shift(x, y)


# ---------------------------------------------------------------------------- others
def _variadic(name: str, function: Callable[[Any, Any, Any], Any]) -> None:
    def run(node: Node, *values: Any) -> Any:
        lib = xp(*values)
        return functools.reduce(lambda x, y: function(lib, x, y), values)

    operator(name)(run)


_variadic("Max", lambda lib, x, y: lib.maximum(x, y))
_variadic("Min", lambda lib, x, y: lib.minimum(x, y))
_variadic("Sum", lambda lib, x, y: lib.add(x, y))


@operator("Mean")
def mean(node: Node, *values: Any) -> Any:
    return functools.reduce(xp(*values).add, values) / len(values)


@operator("Where")
def where(node: Node, condition: Any, x: Any, y: Any) -> Any:
    return xp(condition, x, y).where(condition, x, y)


@operator("Clip")
def clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    """Limits were attributes before opset 11."""
    lib = xp(x, low, high)
    if node.opset < 11:
        low, high = node.get("min"), node.get("max")
    for limit, choose in ((low, lib.maximum), (high, lib.minimum)):
        if limit is not None:
            x = choose(x, cast(lib.asarray(limit), x.dtype))
    return x


def to_type(node: Node, x: Any, kind: int) -> Any:
    """`x` in the type of a TensorProto.DataType."""
    if kind not in TYPES:
        raise node.unsupported(f"a cast to element type {kind}")
    dtype = TYPES[kind].numpy
    if dtype == np.bool_:
        return x != 0
    if x.dtype == np.bool_ and dtype.kind not in "biuf":
        return cast(cast(x, np.float32), dtype)
    return cast(x, dtype)


@operator("Cast")
def cast_to(node: Node, x: Any) -> Any:
    return to_type(node, x, node.need("to"))


@operator("CastLike")
def cast_like(node: Node, x: Any, like: Any) -> Any:
    return x != 0 if like.dtype == np.bool_ else cast(x, like.dtype)


@operator("Dropout", static=(1, 2), notes="as in inference")
def dropout(node: Node, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(training):
        raise node.unsupported("training mode", "export the model in evaluation mode")
    return (x, np.ones(x.shape, bool)) if node.outputs > 1 else x


# -------------------------------------------------------------------- com.microsoft
@operator("Gelu", domain=MICROSOFT)
def ms_gelu(node: Node, x: Any) -> Any:
    return jax.nn.gelu(jnp.asarray(x), approximate=False)


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(node: Node, x: Any, bias: Any = None) -> Any:
    return jax.nn.gelu(jnp.asarray(x if bias is None else x + bias), approximate=True)


@operator("BiasGelu", domain=MICROSOFT)
def bias_gelu(node: Node, x: Any, bias: Any) -> Any:
    return jax.nn.gelu(x + bias, approximate=False)


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(node: Node, x: Any) -> Any:
    return x * jax.nn.sigmoid(node.get("alpha", 1.702) * x)


@operator("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(node: Node, x: Any, bias: Any) -> Any:
    left, right = jnp.split(x + bias, 2, axis=-1)
    return left * jax.nn.gelu(right, approximate=False)


@operator("BiasAdd", domain=MICROSOFT)
def bias_add(node: Node, x: Any, bias: Any, skip: Any) -> Any:
    return x + bias + skip


@operator("BiasDropout", domain=MICROSOFT, static=(3, 4), notes="as in inference")
def bias_dropout(node: Node, x: Any, bias: Any, residual: Any = None, *_: Any) -> Any:
    return x + bias if residual is None else x + bias + residual


operator("Rsqrt", domain=MICROSOFT)(lambda node, x: jax.lax.rsqrt(jnp.asarray(x)))
