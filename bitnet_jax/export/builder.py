"""Building an ONNX graph: nodes that are pure and stand once, constants, sizes, subgraphs.

A value is its name. What is asked for twice is one node, so that rules may ask freely; what
nobody reads is left out at the end. Knows ONNX and numpy; no jaxpr, no weight.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

# name of a numpy (or ml_dtypes) dtype -> ONNX's number for it
ONNX_TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "int2": TensorProto.INT2,
    "int4": TensorProto.INT4,
}

CONTRIB = "com.microsoft"
# Where a slice has no end.
END = np.iinfo(np.int64).max


class Scope:
    """The nodes of one graph: the whole, or the body of a loop or a branch."""

    def __init__(self, outer: Scope | None = None):
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.known: dict[Any, tuple[str, ...]] = {}

    def find(self, key: Any) -> tuple[str, ...] | None:
        """The results of a node that stands here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if key in scope.known:
                return scope.known[key]
            scope = scope.outer
        return None


class Builder:
    """One ONNX graph in the making.

    Args:
      taken: names that are others': parameters, inputs and results.

    Attributes:
      constants: the small tensors, by name.
      parameters: names of the initializers that nodes read and the writer brings.
      contrib: a node of ONNX Runtime's own domain stands in it.
    """

    def __init__(self, taken: Collection[str] = ()) -> None:
        self._taken = frozenset(taken)
        self.constants: dict[str, onnx.TensorProto] = {}
        self.parameters: dict[str, None] = {}
        self.contrib = False
        self.scope = Scope()
        self._numbers = itertools.count()
        self._constant_names: dict[Any, str] = {}
        # What a value was reshaped, transposed, widened or broadcast from: rules look behind it.
        self.reshaped: dict[str, tuple[str, tuple[Any, ...]]] = {}
        self.transposed: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.narrow: dict[str, str] = {}
        self.loose: dict[str, str] = {}

    # ------------------------------------------------------------------------------- nodes
    def name(self, stem: str) -> str:
        """A name that nothing has."""
        while (name := f"{stem}_{next(self._numbers)}") in self._taken:
            pass
        return name

    def ops(self, op: str, *inputs: str, results: int = 1, **attributes: Any) -> tuple[str, ...]:
        """The results of a node; an empty input is one that is left out."""
        domain = attributes.pop("domain", "")
        graphs = [v for v in attributes.values() if isinstance(v, onnx.GraphProto)]
        frozen = tuple(sorted((k, _frozen(v)) for k, v in attributes.items()) if not graphs else ())
        key = (op, domain, inputs, results, frozen)
        found = None if graphs else self.scope.find(key)
        if found is not None:
            return found
        outputs = tuple(self.name(op) for _ in range(results))
        node = helper.make_node(op, inputs, outputs, domain=domain, **attributes)
        node.name = outputs[0]
        self.contrib |= domain == CONTRIB
        self.scope.nodes.append(node)
        if not graphs:
            self.scope.known[key] = outputs
        return outputs

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The result of a node that has one."""
        return self.ops(op, *inputs, **attributes)[0]

    def const(self, value: Any, dtype: Any = None) -> str:
        """A tensor that stands in the graph itself; equal ones stand once."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constant_names:
            name = self.name("constant")
            tensor = TensorProto(name=name, data_type=ONNX_TYPES[str(array.dtype)])
            tensor.dims.extend(array.shape)
            tensor.raw_data = array.tobytes()
            self.constants[name] = tensor
            self._constant_names[key] = name
        return self._constant_names[key]

    def ints(self, values: Sequence[int]) -> str:
        """An INT64 [n] constant: axes, sizes, pads."""
        return self.const(np.asarray(values, np.int64))

    def parameter(self, name: str) -> str:
        """An initializer that the writer brings."""
        self.parameters[name] = None
        return name

    # ---------------------------------------------------------------------------- shortcuts
    def cast(self, x: str, dtype: str) -> str:
        """`x` as `dtype`; what was only widened is looked behind."""
        return self.op("Cast", x, to=ONNX_TYPES[dtype])

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        """`x` with its axes in another order; two transposes are one, or none."""
        base, first = self.transposed.get(x, (x, tuple(range(len(perm)))))
        both = tuple(first[axis] for axis in perm)
        if both == tuple(range(len(both))):
            return base
        out = self.op("Transpose", base, perm=list(both))
        self.transposed[out] = (base, both)
        return out

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.ints(axes)) if axes else x

    def squeeze(self, x: str, *axes: int) -> str:
        return self.op("Squeeze", x, self.ints(axes)) if axes else x

    def slice(self, x: str, axis: int, start: int, end: int = END, step: int = 1) -> str:
        one = (self.ints([start]), self.ints([end]), self.ints([axis]))
        return self.op("Slice", x, *one, *((self.ints([step]),) if step != 1 else ()))

    # ---------------------------------------------------------------------------- subgraphs
    @contextmanager
    def body(self) -> Iterator[Scope]:
        """What is built inside stands in a scope of its own; outer values may be read."""
        inner = Scope(self.scope)
        self.scope = inner
        try:
            yield inner
        finally:
            assert inner.outer is not None
            self.scope = inner.outer

    def output(self, x: str) -> str:
        """`x` under a name of its own in this scope: results of a graph must be that."""
        name = self.name("result")
        node = helper.make_node("Identity", [x], [name])
        node.name = name
        self.scope.nodes.append(node)
        return name


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def live_nodes(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that `outputs` need, and every name that they read."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not wanted.intersection(node.output):
            continue
        kept.append(node)
        wanted.update(reads(node))
    return kept[::-1], wanted


def reads(node: onnx.NodeProto) -> set[str]:
    """Every name that a node reads, in its subgraphs too."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                found |= reads(inner)
            found.update(out.name for out in attribute.g.output)
    return found


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of that name, ml_dtypes' included."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)
