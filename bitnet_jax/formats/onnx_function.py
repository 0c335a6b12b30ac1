"""`from_onnx`: any ONNX graph as a JAX function and its parameters.

The function is traced, differentiated and compiled like one that was written by hand, and so it can
be made ternary: its parameters are the graph's initializers, by their names. What only decides
shapes stays numpy, so `jit` sees static shapes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.containers.onnx_file import OnnxFile, OnnxTensor, open_onnx
from bitnet_jax.containers.onnx_types import TYPES
from bitnet_jax.core.errors import BadData, UsageError, did_you_mean
from bitnet_jax.formats.onnx_ops import quantized
from bitnet_jax.formats.onnx_ops.products import matmul
from bitnet_jax.formats.onnx_ops.table import Node, as_jax
from bitnet_jax.formats.onnx_walk import Graph, Step, compile_graph, known_names, run_graph


@dataclass(frozen=True)
class OnnxInput:
    """An input of a graph: a size that is free is a name, or None."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None


class OnnxFunction:
    """``fn(params, *inputs)``: the graph's outputs for its inputs, by position or by name.

    ``fn(params, a, b)``, ``fn(params, input_ids=a, mask=b)`` and ``fn(params, {"input_ids": a,
    "mask": b})`` are the same. One output is returned as itself, several as a dict by name.

    Attributes:
      inputs: those that a call must give, in the graph's order.
      outputs: names, in the graph's order.
    """

    def __init__(
        self,
        graph: Graph,
        constants: Mapping[str, np.ndarray],
        inputs: tuple[OnnxInput, ...],
        where: str,
    ):
        self.graph = graph
        self.inputs = inputs
        self.outputs = graph.outputs
        self._constants = constants
        self._where = where
        self.__name__ = "onnx_function"
        self.__doc__ = f"The graph of {where}."

    def __call__(self, params: Mapping[str, Any], *args: Any, **named: Any) -> Any:
        """Computes the outputs.

        Raises:
          UsageError: the inputs are not those of the graph (``onnx.inputs``).
          BadData: a node cannot take what reaches it (``onnx.node``, ``onnx.dynamic``).
        """
        values: dict[str, Any] = dict(self._constants)
        values.update(params)
        values.update(self._given(args, named))
        found = [as_jax(value) for value in run_graph(self.graph, values)]
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))

    def _given(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        first: Any = args[0] if len(args) == 1 else None
        if isinstance(first, Mapping) and not named:
            args, named = (), first
        names = [item.name for item in self.inputs]
        given = dict(zip(names, args, strict=False)) | dict(named)
        unknown = [name for name in named if name not in names]
        lacking = [name for name in names if name not in given]
        if unknown or lacking or len(args) + len(named) != len(names):
            raise UsageError(
                "onnx.inputs",
                f"the graph of {self._where} takes {', '.join(names) or 'no inputs'}"
                + (f"; lacking: {', '.join(lacking)}" if lacking else "")
                + (f"; unknown: {', '.join(unknown)}" if unknown else "")
                + (f"; {len(args)} were given by position" if len(args) > len(names) else ""),
                did_you_mean(unknown[0], names) if unknown and names else None,
            )
        return {item.name: self._checked(item, given[item.name]) for item in self.inputs}

    def _checked(self, item: OnnxInput, value: Any) -> Any:
        value = as_jax(np.asarray(value)) if not hasattr(value, "aval") else value
        wanted = jax.dtypes.canonicalize_dtype(item.dtype)
        shape, found = item.shape, list(value.shape)
        fits = shape is None or (
            len(shape) == len(found)
            and all(
                size == n for size, n in zip(shape, found, strict=True) if isinstance(size, int)
            )
        )
        if value.dtype != wanted or not fits:
            raise UsageError(
                "onnx.inputs",
                f"input `{item.name}` is {value.dtype}{found}; the graph of "
                f"{self._where} takes {wanted}{list(shape) if shape is not None else ''}",
            )
        return value

    def example(self, **sizes: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Abstract inputs, for `pack`, `explain` and `jit`: `sizes` are those of the free axes.

        Raises:
          UsageError: a free axis has no size (``onnx.inputs``).
        """
        found = []
        for item in self.inputs:
            free = [
                size for size in item.shape or () if not isinstance(size, int) and size not in sizes
            ]
            if free or item.shape is None:
                raise UsageError(
                    "onnx.inputs",
                    f"input `{item.name}` of {self._where} has free axes: "
                    + (str(list(item.shape)) if item.shape is not None else "all of them"),
                    "give each a size: fn.example(" + ", ".join(f"{n}=1" for n in free if n) + ")",
                )
            shape = tuple(
                size if isinstance(size, int) else sizes[str(size)] for size in item.shape
            )
            found.append(jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(item.dtype)))
        return tuple(found)


def from_onnx(
    path: os.PathLike | str,
    *,
    bind: Mapping[str, Any] | None = None,
    dequantize: bool = False,
) -> tuple[OnnxFunction, dict[str, jax.Array]]:
    """Reads an ONNX graph as ``(fn, params)``; ``fn(params, *inputs)`` gives its outputs.

    Args:
      path: an ``.onnx`` file; external data beside it is read.
      bind: inputs that are known and no longer given: those that decide shapes must be here.
      dequantize: quantized weights become float parameters (those of DequantizeLinear and
        MatMulNBits), which can be made ternary; else they stay as codes.

    Returns:
      The function, and its parameters by the initializers' names: all float tensors but single
      numbers and those that decide shapes, and all quantized codes. 64-bit types become 32-bit
      ones unless JAX runs with ``jax_enable_x64``.

    Raises:
      NoInput, PermissionDenied, IOFailure: from the operating system.
      BadData: it is damaged or hostile (``onnx.*``), or has an operator that is not known
        (``onnx.unknown_op``, with domain and node).
      UsageError: `bind` names no input (``onnx.inputs``).
    """
    file = open_onnx(path)
    graph = compile_graph(file)
    bound = {name: np.asarray(value) for name, value in (bind or {}).items()}
    unknown = [name for name in bound if name not in graph.inputs]
    if unknown:
        raise UsageError(
            "onnx.inputs",
            f"{file.where} has no input `{unknown[0]}` to bind",
            did_you_mean(unknown[0], graph.inputs),
        )
    inputs = tuple(inputs_of(file, bound))
    graph, hoisted = _hoisted(graph)
    params: dict[str, np.ndarray] = {}
    if dequantize:
        graph, params = _dequantized(file, graph)
    used = {name for step in _all(graph) for name in step.inputs} | set(graph.outputs)
    fixed = known_names(graph)
    constants = dict(bound)
    for name, tensor in file.tensors.items():
        if name in params or name not in used:
            continue
        value = file.read(tensor)
        chosen = params if is_parameter(tensor) and name not in fixed else constants
        chosen[name] = value
    for name, value in hoisted.items():
        (constants if name in fixed else params)[name] = value
    fn = OnnxFunction(graph, constants, inputs, file.where)
    return fn, {name: jnp.asarray(whole(value)) for name, value in params.items()}


def is_parameter(tensor: OnnxTensor) -> bool:
    """True for floats and codes that are no single number."""
    kind = tensor.kind
    floats = kind.name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))
    codes = kind.bits <= 8 and kind.name != "BOOL"
    return bool(tensor.shape) and (floats or codes)


def whole(value: np.ndarray) -> np.ndarray:
    """As JAX holds it: codes of less than a byte in one each, 64-bit floats in 32."""
    if value.dtype.name in ("int4", "int2", "uint4", "uint2"):
        return value.astype(np.uint8 if value.dtype.name.startswith("u") else np.int8)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype))


def inputs_of(file: OnnxFile, bound: Collection[str] = ()) -> list[OnnxInput]:
    """The inputs of a graph that are neither initializers nor `bound`.

    Raises:
      BadData: one is no array of numbers (code ``onnx.unsupported``).
    """
    found = []
    for item in file.graph.input:
        if item.name in file.tensors or item.name in bound:
            continue
        kind = item.type.tensor_type
        if not item.type.HasField("tensor_type") or kind.elem_type not in TYPES:
            raise BadData(
                "onnx.unsupported",
                f"{file.where}: input `{item.name[:120]}` is no array of numbers",
            )
        shape: tuple[int | str | None, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(
                int(d.dim_value) if d.HasField("dim_value") else d.dim_param or None
                for d in kind.shape.dim
            )
        found.append(OnnxInput(item.name, TYPES[kind.elem_type].numpy, shape))
    return found


def _all(graph: Graph) -> list[Step]:
    """Every step, those of branches, bodies and functions too."""
    found: list[Step] = []
    for step in graph.steps:
        found.append(step)
        for inner in (*step.graphs.values(), *([step.call] if step.call else ())):
            found += _all(inner)
            found.append(replace(step, inputs=inner.outputs))
    return found


# ------------------------------------------------------------- weights that are written otherwise
def _hoisted(graph: Graph) -> tuple[Graph, dict[str, np.ndarray]]:
    """Weights that stand in Constant nodes are initializers, by the name of what the node makes."""
    kept, found = [], {}
    for step in graph.steps:
        value = step.node.get("value") if step.node.op == "Constant" and step.call is None else None
        if isinstance(value, np.ndarray) and value.ndim >= 2 and value.dtype.kind in "fV":
            found[step.outputs[0]] = value
        else:
            kept.append(step)
    return replace(graph, steps=tuple(kept)), found


def _dequantized(file: OnnxFile, graph: Graph) -> tuple[Graph, dict[str, np.ndarray]]:
    """Quantized weights made float: the parameter has the name of its codes."""
    params: dict[str, np.ndarray] = {}
    renamed: dict[str, str] = {}
    kept = []
    for step in graph.steps:
        values = [file.tensors.get(name) for name in step.inputs]
        if step.node.op == "DequantizeLinear" and values[0] is not None and None not in values:
            read = [file.read(value) for value in values if value is not None]
            name = step.inputs[0]
            if name in params:  # used twice, perhaps with another scale
                name = step.outputs[0]
            params[name] = np.asarray(quantized.dequantize(step.node, *read))
            renamed[step.outputs[0]] = name
            continue
        if step.node.op == "MatMulNBits" and step.run is not None:
            step = _plain_nbits(file, step, params)
        kept.append(step)
    steps = tuple(
        replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs))
        for step in kept
    )
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    return replace(graph, steps=steps, outputs=outputs), params


def _plain_nbits(file: OnnxFile, step: Step, params: dict[str, np.ndarray]) -> Step:
    """A MatMulNBits as a product with a float weight [N, K]."""
    names = [*step.inputs, "", "", ""][:6]
    if names[4] or any(name and name not in file.tensors for name in names[1:4]):
        return step
    read = [file.read(name) if name else None for name in names[1:4]]
    params[names[1]] = np.asarray(quantized.nbits_weight(step.node, *read))
    return replace(step, run=_turned_product, inputs=(names[0], names[1], names[5]))


def _turned_product(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    found = matmul(x, w.T)
    return found if bias is None else found + bias
