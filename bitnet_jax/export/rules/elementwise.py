"""Rules: elementwise arithmetic, comparisons, choices and casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitnet_jax.export.builder import Builder
from bitnet_jax.export.dims import same_shape
from bitnet_jax.export.lowering import WIDER, Lowering, Rule


def operands(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    """The operands, broadcasts left out where another operand has the result's shape."""
    target = eqn.outvars[0].aval.shape
    whole = [
        same_shape(var.aval.shape, target) and value not in low.builder.loose
        for var, value in zip(eqn.invars, values, strict=True)
    ]
    if not any(whole):
        return list(values)
    return [low.builder.loose.get(value, value) for value in values]


def elementwise(compute: Callable[..., str], *, narrow: bool = True) -> Rule:
    """A rule of ``compute(builder, *operands)``, in a dtype that runtimes have kernels for.

    Args:
      narrow: the result has the operands' dtype, and goes back to it.
    """

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        inputs = []
        for var, value in zip(eqn.invars, operands(low, eqn, values), strict=True):
            wide = WIDER.get(str(var.aval.dtype))
            inputs.append(low.builder.cast(value, wide) if wide else value)
        out = compute(low.builder, *inputs)
        dtype = str(eqn.outvars[0].aval.dtype)
        return [low.builder.cast(out, dtype) if narrow and dtype in WIDER else out]

    return rule


def node(op: str, **attributes: Any) -> Rule:
    """A rule of one node."""
    return elementwise(lambda b, *x: b.op(op, *x, **attributes))


def compared(op: str) -> Rule:
    """A comparison: of booleans as integers."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        if str(eqn.invars[0].aval.dtype) == "bool" and op != "Equal":
            ints = [low.builder.cast(value, "int32") for value in operands(low, eqn, values)]
            return [low.builder.op(op, *ints)]
        return elementwise(lambda b, *x: b.op(op, *x), narrow=False)(low, eqn, values)

    return rule


def logical(boolean: str, integer: str) -> Rule:
    """A rule that differs for booleans; integers keep their dtype, bits being bits."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        is_bool = str(eqn.outvars[0].aval.dtype) == "bool"
        return [low.builder.op(boolean if is_bool else integer, *operands(low, eqn, values))]

    return rule


def extreme(op: str, of_bools: str) -> Rule:
    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        if str(eqn.outvars[0].aval.dtype) == "bool":
            return [low.builder.op(of_bools, *operands(low, eqn, values))]
        return node(op)(low, eqn, values)

    return rule


def _like(low: Lowering, eqn: Any) -> str:
    """The dtype that an equation is computed in."""
    dtype = str(eqn.outvars[0].aval.dtype)
    return WIDER.get(dtype, dtype)


def with_constants(compute: Callable[..., str]) -> Rule:
    """A rule of ``compute(builder, number, *operands)``, `number` making constants of the dtype."""

    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        dtype = np.dtype(_like(low, eqn))

        def number(value: float) -> str:
            return low.builder.const(np.asarray(value, dtype))

        return elementwise(lambda b, *x: compute(b, number, *x))(low, eqn, values)

    return rule


Number = Callable[[float], str]


def _expm1(b: Builder, number: Number, x: str) -> str:
    # Near 0, `exp(x) - 1` has no bits left: there 2t / (1 - t) with t = tanh(x/2).
    t = b.op("Tanh", b.op("Mul", x, number(0.5)))
    small = b.op("Div", b.op("Add", t, t), b.op("Sub", number(1), t))
    large = b.op("Sub", b.op("Exp", x), number(1))
    return b.op("Where", b.op("Less", b.op("Abs", x), number(1)), small, large)


def _log1p(b: Builder, number: Number, x: str) -> str:
    # Kahan: u = 1 + x; log(u)·x/(u - 1) has the bits that log(1 + x) lost.
    u = b.op("Add", number(1), x)
    less = b.op("Sub", u, number(1))
    exact = b.op("Equal", less, number(0))
    safe = b.op("Where", exact, number(1), less)
    wide = b.op("Mul", b.op("Log", u), b.op("Div", x, safe))
    # Of infinity the quotient is none; its logarithm is itself.
    infinite = b.op("IsInf", x, detect_negative=0)
    return b.op("Where", b.op("Or", exact, infinite), x, wide)


def _cbrt(b: Builder, number: Number, x: str) -> str:
    return b.op("Mul", b.op("Sign", x), b.op("Pow", b.op("Abs", x), number(1 / 3)))


def _atan2(b: Builder, number: Number, y: str, x: str) -> str:
    zero, pi = number(0), number(math.pi)
    straight = b.op("Equal", x, zero)
    angle = b.op("Atan", b.op("Div", y, b.op("Where", straight, number(1), x)))
    turn = b.op("Where", b.op("Less", y, zero), b.op("Neg", pi), pi)
    angle = b.op("Where", b.op("Less", x, zero), b.op("Add", angle, turn), angle)
    upright = b.op("Mul", b.op("Sign", y), number(math.pi / 2))
    return b.op("Where", straight, upright, angle)


def _integer_pow(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    power = eqn.params["y"]

    def compute(b: Builder, number: Number, x: str) -> str:
        out, factor, left = "", x, abs(power)
        while left:
            if left & 1:
                out = b.op("Mul", out, factor) if out else factor
            left >>= 1
            factor = b.op("Mul", factor, factor) if left else factor
        out = out or b.op("Add", b.op("Sub", x, x), number(1))
        return b.op("Div", number(1), out) if power < 0 else out

    return with_constants(compute)(low, eqn, values)


def _round(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    if int(eqn.params["rounding_method"]) == 1:  # to nearest, half to even: ONNX's Round
        return node("Round")(low, eqn, values)

    def away(b: Builder, number: Number, x: str) -> str:
        return b.op("Mul", b.op("Sign", x), b.op("Floor", b.op("Add", b.op("Abs", x), number(0.5))))

    return with_constants(away)(low, eqn, values)


def _clamp(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    def compute(b: Builder, least: str, x: str, most: str) -> str:
        return b.op("Min", b.op("Max", x, least), most)

    return elementwise(compute)(low, eqn, values)


def where(b: Builder, condition: str, yes: str, no: str, dtype: str) -> str:
    """`yes` where `condition`, else `no`; of any dtype."""
    if dtype == "bool":
        chosen = b.op("And", condition, yes)
        return b.op("Or", chosen, b.op("And", b.op("Not", condition), no))
    wide = WIDER.get(dtype)
    if not wide:
        return b.op("Where", condition, yes, no)
    return b.cast(b.op("Where", condition, b.cast(yes, wide), b.cast(no, wide)), dtype)


def _select_n(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    dtype = str(eqn.outvars[0].aval.dtype)
    which, *cases = operands(low, eqn, values)
    b = low.builder
    if str(eqn.invars[0].aval.dtype) == "bool":
        return [where(b, which, cases[1], cases[0], dtype)]
    number = b.cast(which, "int32")
    out = cases[0]
    for index, case in enumerate(cases[1:], 1):
        out = where(b, b.op("Equal", number, low.scalar(index, "int32")), case, out, dtype)
    return [out]


# Floats that do not fit are the nearest integer in JAX, and anything in ONNX.
_SATURATED = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
}


def _convert(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    source, target = (str(var.aval.dtype) for var in (eqn.invars[0], eqn.outvars[0]))
    (x,), b = values, low.builder
    if source == target:
        return [x]
    loose = b.loose.get(x)
    if loose is not None:
        return [low.expand(b.cast(loose, target), eqn.outvars[0].aval.shape, target)]
    if "float" in source and target in _SATURATED:
        wide = b.cast(x, "float32") if source in WIDER else x
        dtype = "float64" if source == "float64" else "float32"
        least, most = (low.scalar(limit, dtype) for limit in _SATURATED[target])
        return [b.cast(b.op("Min", b.op("Max", wide, least), most), target)]
    return [b.cast(x, target)]


_PRECISIONS = {(8, 7): "bfloat16", (5, 10): "float16"}


def _reduce_precision(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    bits = (eqn.params["exponent_bits"], eqn.params["mantissa_bits"])
    dtype = str(eqn.invars[0].aval.dtype)
    if bits in ((8, 23), (11, 52)):
        return list(values)
    if bits not in _PRECISIONS:
        raise low.refuse(
            eqn, f"precision {bits} is that of no ONNX type", "use bfloat16 or float16"
        )
    return [low.builder.cast(low.builder.cast(values[0], _PRECISIONS[bits]), dtype)]


def _shift(op: str) -> Rule:
    def rule(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
        dtype = str(eqn.outvars[0].aval.dtype)
        bits = np.dtype(dtype).itemsize * 8
        unsigned = f"uint{max(bits, 32)}" if not dtype.startswith("u") else dtype
        b = low.builder
        same = f"uint{bits}"
        sides = [b.cast(b.cast(v, same), unsigned) for v in operands(low, eqn, values)]
        return [b.cast(b.op("BitShift", *sides, direction=op), dtype)]

    return rule


def _is_finite(b: Builder, x: str) -> str:
    return b.op("Not", b.op("Or", b.op("IsInf", x), b.op("IsNaN", x)))


def _same(low: Lowering, eqn: Any, values: Sequence[str]) -> list[str]:
    return list(values)


RULES: dict[str, Rule] = {
    "add": node("Add"),
    "add_any": node("Add"),
    "sub": node("Sub"),
    "mul": node("Mul"),
    "div": node("Div"),
    "rem": node("Mod", fmod=1),
    "pow": node("Pow"),
    "max": extreme("Max", "Or"),
    "min": extreme("Min", "And"),
    "neg": node("Neg"),
    "abs": node("Abs"),
    "sign": node("Sign"),
    "floor": node("Floor"),
    "ceil": node("Ceil"),
    "exp": node("Exp"),
    "log": node("Log"),
    "sqrt": node("Sqrt"),
    "tanh": node("Tanh"),
    "sin": node("Sin"),
    "cos": node("Cos"),
    "tan": node("Tan"),
    "asin": node("Asin"),
    "acos": node("Acos"),
    "atan": node("Atan"),
    "sinh": node("Sinh"),
    "cosh": node("Cosh"),
    "asinh": node("Asinh"),
    "acosh": node("Acosh"),
    "atanh": node("Atanh"),
    "erf": node("Erf"),
    "logistic": node("Sigmoid"),
    "atan2": with_constants(_atan2),
    "cbrt": with_constants(_cbrt),
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _same,
    "erfc": with_constants(lambda b, number, x: b.op("Sub", number(1), b.op("Erf", x))),
    "exp2": with_constants(lambda b, number, x: b.op("Pow", number(2), x)),
    "expm1": with_constants(_expm1),
    "integer_pow": _integer_pow,
    "is_finite": elementwise(_is_finite, narrow=False),
    "log1p": with_constants(_log1p),
    "optimization_barrier": _same,
    "reduce_precision": _reduce_precision,
    "round": _round,
    "rsqrt": with_constants(lambda b, number, x: b.op("Div", number(1), b.op("Sqrt", x))),
    "select_n": _select_n,
    "stop_gradient": _same,
    "square": elementwise(lambda b, x: b.op("Mul", x, x)),
    "eq": compared("Equal"),
    "ne": elementwise(lambda b, *x: b.op("Not", b.op("Equal", *x)), narrow=False),
    "lt": compared("Less"),
    "le": compared("LessOrEqual"),
    "gt": compared("Greater"),
    "ge": compared("GreaterOrEqual"),
    "not": logical("Not", "BitwiseNot"),
    "and": logical("And", "BitwiseAnd"),
    "or": logical("Or", "BitwiseOr"),
    "xor": logical("Xor", "BitwiseXor"),
    "shift_left": _shift("LEFT"),
    "shift_right_logical": _shift("RIGHT"),
}
