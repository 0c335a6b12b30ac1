"""A graph of ONNX made ready to be walked, and the walk: operator by operator, in their order.

`compile_graph` finds each node's operator before anything runs, so what is not known is told when
the file is opened. Knows no parameters: whoever calls gives values to the initializers.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from bitnet_jax.containers.onnx_file import OnnxFile
from bitnet_jax.containers.onnx_graph import name_of
from bitnet_jax.core.errors import BadData, nearest
from bitnet_jax.formats.onnx_ops import (  # noqa: F401  (each registers its operators)
    attention,
    control,
    elementwise,
    images,
    norms,
    products,
    quantized,
    recurrent,
    reductions,
    shapes,
)
from bitnet_jax.formats.onnx_ops.table import OPERATORS, Node, Operator, as_jax, is_static, look_up

# AttributeProto.AttributeType -> how its value is had.
_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS, _TENSORS = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
# What these give depends on the shape of their input alone.
_SHAPES = ("Shape", "Size")


@dataclass(frozen=True)
class Step:
    """One node, ready: its function and the names of what goes in and comes out.

    Attributes:
      graphs: attribute -> branch or body.
      call: the model-local function it stands for, instead of an operator.
    """

    node: Node
    run: Callable[..., Any] | None
    static: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graphs: Mapping[str, Graph]
    call: Graph | None = None


@dataclass(frozen=True)
class Graph:
    """Steps in their order; `constants` are a subgraph's own initializers."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, np.ndarray]


def compile_graph(file: OnnxFile, *, known: bool = True) -> Graph:
    """The main graph of a file.

    Args:
      known: every operator must be; else one that is not raises when it is to run.

    Raises:
      BadData: an operator is not known (``onnx.unknown_op``), with its domain and node.
    """
    compiler = _Compiler(file, known)
    weights = set(file.tensors)
    graph = file.graph
    if graph.sparse_initializer:
        raise BadData("onnx.unsupported", f"{file.where}: sparse initializers are not supported")
    return Graph(
        tuple(item.name for item in graph.input if item.name not in weights),
        tuple(item.name for item in graph.output),
        tuple(compiler.step(node, file.opsets, {}) for node in graph.node),
        {},
    )


# Letters of a message that say in which calls and graphs a node is.
_MOST_WITHIN = 300


class _Compiler:
    def __init__(self, file: OnnxFile, known: bool):
        self.file, self.known = file, known

    def step(
        self, node: Any, opsets: Mapping[str, int], given: Mapping[str, Any], within: str = ""
    ) -> Step:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if len(within) > _MOST_WITHIN:  # calls in calls: the innermost say where
            within = "… " + within[-_MOST_WITHIN:]
        where = f"{self.file.where}, {within}{name_of(node)}"
        attributes, graphs = self._attributes(node, opsets, given, within)
        outputs = tuple(node.output)
        while outputs and not outputs[-1]:
            outputs = outputs[:-1]
        function = self.file.functions.get((domain, node.op_type))
        call, row = None, None
        opset = opsets.get(domain, 1 if domain else 0)
        if function is None:
            if not domain and not opset:
                raise BadData("onnx.version", f"{where}: the model imports no standard opset")
            row = look_up(domain, node.op_type, opset)
            if row is None:
                function, defaults = _defined(domain, node.op_type, opset)
                attributes = defaults | attributes
        if row is None:
            if function is not None:
                call = self._function(function, attributes, opsets, where)
            else:
                unknown = self._unknown(domain, node.op_type, opset, where)
                if self.known:
                    raise unknown
                row = Operator(partial(_raise, unknown), (), opset, "")
        ready = Node(node.op_type, where, opset, attributes, len(outputs))
        return Step(
            ready,
            row.run if row else None,
            row.static if row else (),
            tuple(node.input),
            outputs,
            graphs,
            call,
        )

    def _unknown(self, domain: str, name: str, opset: int, where: str) -> BadData:
        known = [other for place, other in OPERATORS if place == domain]
        close = nearest(name, known)
        rows = OPERATORS.get((domain, name))
        found = (
            f"is known from opset {rows[0].since} on, and the model is of {opset}"
            if rows
            else "is not known"
        )
        return BadData(
            "onnx.unknown_op",
            f"{where}: operator `{name[:80]}` of domain `{domain[:80] or 'ai.onnx'}` {found}",
            (f"the nearest that are known: {', '.join(close)}. " if close else "")
            + "docs/formats/onnx-operators.md lists every operator that is known",
        )

    def _function(
        self, function: Any, attributes: Mapping[str, Any], opsets: Mapping[str, int], where: str
    ) -> Graph:
        """A function's body for one call: what it reads of the caller's attributes is filled in."""
        given = {
            item.name: self._value(item, opsets, {}, "") for item in function.attribute_proto
        } | dict(attributes)
        own = {
            ("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import
        }
        within = f"function `{function.name[:80]}`, "
        steps = tuple(self.step(node, own, given, within) for node in function.node)
        return Graph(tuple(function.input), tuple(function.output), steps, {})

    def _subgraph(
        self, graph: Any, opsets: Mapping[str, int], given: Mapping[str, Any], within: str
    ) -> Graph:
        constants = {
            item.name: self.file.read(self.file.tensor(item)) for item in graph.initializer
        }
        return Graph(
            tuple(item.name for item in graph.input),
            tuple(item.name for item in graph.output),
            tuple(self.step(node, opsets, given, within) for node in graph.node),
            constants,
        )

    def _attributes(
        self, node: Any, opsets: Mapping[str, int], given: Mapping[str, Any], within: str
    ) -> tuple[dict[str, Any], dict[str, Graph]]:
        values: dict[str, Any] = {}
        graphs: dict[str, Graph] = {}
        for item in node.attribute:
            if item.ref_attr_name:
                if item.ref_attr_name in given:
                    values[item.name] = given[item.ref_attr_name]
                continue
            value = self._value(item, opsets, given, within)
            (graphs if isinstance(value, Graph) else values)[item.name] = value
        return values, graphs

    def _value(
        self, item: Any, opsets: Mapping[str, int], given: Mapping[str, Any], within: str
    ) -> Any:
        match item.type:  # AttributeProto.AttributeType
            case 1:
                return float(item.f)
            case 2:
                return int(item.i)
            case 3:
                return item.s.decode("utf-8", "replace")
            case 4:
                return self.file.read(self.file.tensor(item.t))
            case 5:
                return self._subgraph(item.g, opsets, given, within)
            case 6:
                return [float(value) for value in item.floats]
            case 7:
                return [int(value) for value in item.ints]
            case 8:
                return [value.decode("utf-8", "replace") for value in item.strings]
            case 9:
                return [self.file.read(self.file.tensor(value)) for value in item.tensors]
        raise BadData(
            "onnx.unsupported",
            f"{self.file.where}: attribute `{item.name[:80]}` is of type {item.type}, which no "
            "operator here takes",
        )


def _raise(error: BadData, *values: Any) -> Any:
    raise error


def _defined(domain: str, name: str, opset: int) -> tuple[Any, dict[str, Any]]:
    """What the standard itself defines an operator as, where that is a function of others.

    Returns:
      The function, or None, and its attributes' defaults.
    """
    import onnx

    # A function's own opset is a stranger's number; the library takes 32 bits of it.
    if domain or not 0 < opset < 1 << 31 or not onnx.defs.has(name):
        return None, {}
    try:
        schema = onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        return None, {}
    if not schema.has_function:
        return None, {}
    defaults = {
        key: onnx.helper.get_attribute_value(item.default_value)
        for key, item in schema.attributes.items()
        if item.default_value.type
    }
    return schema.function_body, defaults


# ------------------------------------------------------------------------------- walk
def run_graph(graph: Graph, values: MutableMapping[str, Any]) -> list[Any]:
    """Computes a graph's outputs.

    Args:
      values: of its inputs, initializers and what it sees of the graphs around it; grows.

    Raises:
      BadData: a node's inputs do not fit it (``onnx.node``), or must be known while
        tracing and are not (``onnx.dynamic``).
    """
    values.update(graph.constants)
    for step in graph.steps:
        run_step(step, values)
    return [values[name] for name in graph.outputs]


def run_step(step: Step, values: MutableMapping[str, Any]) -> None:
    """Computes one step's results into `values`; raises as `run_graph`."""
    for name, value in zip(step.outputs, _run(step, values), strict=False):
        if name:
            values[name] = value


def _run(step: Step, values: MutableMapping[str, Any]) -> Sequence[Any]:
    given = [values[name] if name else None for name in step.inputs]
    while given and given[-1] is None:
        given.pop()
    if step.call is not None:
        padded = given + [None] * (len(step.call.inputs) - len(given))
        found = run_graph(step.call, dict(zip(step.call.inputs, padded, strict=True)))
        return found
    for slot in step.static:
        if slot < len(given) and not is_static(given[slot]):
            raise _dynamic(step, f"input {slot} (`{step.inputs[slot][:120]}`)")
    if not all(is_static(value) for value in given):
        given = [
            value if slot in step.static else _as_jax(value) for slot, value in enumerate(given)
        ]
    node = step.node
    if step.graphs:
        bodies = {name: _body(graph, values) for name, graph in step.graphs.items()}
        node = replace(node, attributes={**node.attributes, **bodies})
    assert step.run is not None
    try:
        found = step.run(node, *given)
    except jax.errors.ConcretizationTypeError as error:
        raise _dynamic(step, "a value") from error
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
        shapes = [f"{getattr(v, 'dtype', '')}{list(getattr(v, 'shape', ()))}" for v in given]
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadData(
            "onnx.node",
            f"{step.node.where} cannot take {', '.join(shapes)[:300]}: {reason[:300]}",
            "are the inputs of the shapes and types that the model asks for?",
        ) from error
    # A list is a sequence: of a value that is one, its operator returns a list around it.
    several = found if isinstance(found, tuple | list) else (found,)
    if node.op == "SequenceEmpty":
        several = ([],)
    return [np.asarray(v) if isinstance(v, np.generic) else v for v in several]


def _as_jax(value: Any) -> Any:
    return [_as_jax(item) for item in value] if isinstance(value, list) else as_jax(value)


def _body(graph: Graph, outer: MutableMapping[str, Any]) -> Callable[..., list[Any]]:
    def run(*values: Any) -> list[Any]:
        inner = ChainMap(dict(zip(graph.inputs, values, strict=True)), outer)
        return run_graph(graph, inner)

    return run


def _dynamic(step: Step, what: str) -> BadData:
    return BadData(
        "onnx.dynamic",
        f"{step.node.where}: {what} decides a shape or an axis, and depends on the model's inputs",
        "bind the input that it depends on: from_onnx(path, bind={name: value})",
    )


# ------------------------------------------------------- what must be known while tracing
def known_names(graph: Graph, wanted: Iterable[str] = ()) -> set[str]:
    """Names of a graph's values that decide shapes or axes, or that such are computed of.

    Args:
      wanted: outputs that must be known.
    """
    known = set(wanted)
    for step in reversed(graph.steps):
        if step.node.op in _SHAPES and step.run is not None:
            continue
        hit = any(name in known for name in step.outputs if name)
        if step.call is not None:
            outs = [
                inner
                for inner, outer in zip(step.call.outputs, step.outputs, strict=False)
                if outer in known
            ]
            inside = known_names(step.call, outs)
            known |= {
                outer
                for inner, outer in zip(step.call.inputs, step.inputs, strict=False)
                if inner in inside and outer
            }
            continue
        known |= {step.inputs[slot] for slot in step.static if slot < len(step.inputs)}
        if hit:
            known |= set(step.inputs)
        for body in step.graphs.values():
            own = {*body.inputs, *(name for inner in body.steps for name in inner.outputs)}
            known |= known_names(body, body.outputs if hit else ()) - own
    known.discard("")
    return known
