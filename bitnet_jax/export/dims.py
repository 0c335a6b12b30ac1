"""Sizes that are known only when the graph runs: JAX's symbols as ONNX values.

A symbolic size (`jax.export.symbolic_shape`) prints as an expression of its symbols; each
symbol is the size of an axis of an input. Knows nothing of equations.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitnet_jax.core.errors import UsageError
from bitnet_jax.export.builder import Builder


def is_static(dim: Any) -> bool:
    """True for a plain number."""
    return isinstance(dim, int | np.integer)


def same(a: Any, b: Any) -> bool:
    """True if two sizes are certainly equal."""
    return bool(a == b) if is_static(a) and is_static(b) else str(a) == str(b)


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """True if two shapes are certainly equal."""
    return len(a) == len(b) and all(map(same, a, b))


class Dims:
    """The sizes of one graph; an INT64 [1] value for each expression."""

    def __init__(self, builder: Builder):
        self._builder = builder
        self._symbols: dict[str, tuple[str, int]] = {}

    def learn(self, name: str, shape: Sequence[Any]) -> None:
        """Says that input `name` has `shape`: its symbols can be read from it."""
        for axis, dim in enumerate(shape):
            if not is_static(dim) and str(dim).isidentifier():
                self._symbols.setdefault(str(dim), (name, axis))

    def value(self, dim: Any) -> str:
        """INT64 [1]: the size.

        Raises:
          UsageError: it has a symbol that is no input's own size (``export.symbol``).
        """
        if is_static(dim):
            return self._builder.ints([int(dim)])
        tree = ast.parse(str(dim).replace("^", "**"), mode="eval")
        return self._value(tree.body, str(dim))

    def scalar(self, dim: Any, dtype: str = "int64") -> str:
        """The size as a scalar of an integer dtype."""
        if is_static(dim):
            return self._builder.const(np.asarray(int(dim), dtype))
        value = self._builder.squeeze(self.value(dim), 0)
        return value if dtype == "int64" else self._builder.cast(value, dtype)

    def shape(self, dims: Sequence[Any]) -> str:
        """INT64 [n]: a shape."""
        if all(map(is_static, dims)):
            return self._builder.ints([int(dim) for dim in dims])
        parts: list[str] = []
        run: list[int] = []
        for dim in dims:
            if is_static(dim):
                run.append(int(dim))
                continue
            if run:
                parts.append(self._builder.ints(run))
                run = []
            parts.append(self.value(dim))
        if run:
            parts.append(self._builder.ints(run))
        return parts[0] if len(parts) == 1 else self._builder.op("Concat", *parts, axis=0)

    def _value(self, node: ast.expr, text: str) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return self._builder.ints([node.value])
        if isinstance(node, ast.Name):
            if node.id not in self._symbols:
                raise UsageError(
                    "export.symbol",
                    f"the size `{text}` has the symbol `{node.id}`, which is no input's own size",
                    f"give an input an axis of that size; known: {', '.join(self._symbols)}",
                )
            name, axis = self._symbols[node.id]
            return self._builder.op("Shape", name, start=axis, end=axis + 1)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self._builder.op("Neg", self._value(node.operand, text))
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
                times = node.right.value
                assert isinstance(times, int)
                base = self._value(node.left, text)
                out = base
                for _ in range(times - 1):
                    out = self._builder.op("Mul", out, base)
                return out
            for kind, op in _BINARY.items():
                if isinstance(node.op, kind):
                    sides = self._value(node.left, text), self._value(node.right, text)
                    return self._builder.op(op, *sides)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            call = _CALLS.get(node.func.id)
            if call is not None:
                return call(self._builder, *(self._value(arg, text) for arg in node.args))
        raise UsageError(
            "export.size",
            f"the size `{text}` is an expression that is not exported",
            "known: +, -, *, floordiv, mod, max, min of sizes of inputs",
        )


_BINARY: dict[type, str] = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}


def _floordiv(builder: Builder, a: str, b: str) -> str:
    # ONNX's Div rounds toward zero: what the sign of Mod says is taken off first.
    return builder.op("Div", builder.op("Sub", a, builder.op("Mod", a, b)), b)


_CALLS: dict[str, Callable[..., str]] = {
    "floordiv": _floordiv,
    "mod": lambda builder, a, b: builder.op("Mod", a, b),
    "max": lambda builder, *values: builder.op("Max", *values),
    "min": lambda builder, *values: builder.op("Min", *values),
}
