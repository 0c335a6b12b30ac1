"""What must hold for the graph of an ONNX model before anybody walks it.

Every value is made once and before it is used, so there is no cycle; names are not absurd;
subgraphs and model-local functions nest no deeper than a walk can go. Knows no tensor data
and no op.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bitnet_jax.core.errors import BadData, few, shown

MAX_NODES = 1_000_000
MAX_NAME = 4096
MAX_DEPTH = 32
_HOSTILE = "the file is damaged or hostile: export the model again"
_GRAPH, _GRAPHS = 5, 10  # AttributeProto.AttributeType


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs in the attributes of a node: branches and bodies of loops."""
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            yield attribute.g
        elif attribute.type == _GRAPHS:
            yield from attribute.graphs


def check_text(model: Any, where: str) -> None:
    """Every string must be text: what is no UTF-8 comes out of the protobuf as bytes.

    Raises:
      BadData: one is not (``onnx.protobuf``).
    """
    left = [model]
    while left:
        for field, value in left.pop().ListFields():
            if field.type == field.TYPE_MESSAGE:
                left.extend(value if _is_several(value) else (value,))
            elif field.type == field.TYPE_STRING:
                for item in value if _is_several(value) else (value,):
                    if not isinstance(item, str):
                        raise BadData(
                            "onnx.protobuf",
                            f"{where}: a text of field `{field.name}` is no UTF-8: {shown(item)}",
                            _HOSTILE,
                        )


def _is_several(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


def name_of(node: Any) -> str:
    """What a message calls a node."""
    domain = f"{node.domain[:80]}." if node.domain not in ("", "ai.onnx") else ""
    name = node.name or (node.output[0] if node.output else "")
    return f"node {shown(name)} ({domain}{node.op_type[:80]})"


def check_graph(model: Any, where: str) -> None:
    """Checks the main graph, and each model-local function.

    Raises:
      BadData: ``onnx.graph`` (a cycle, a value used before it is made or made twice),
        ``onnx.limits`` (too deep, too many nodes, a name without end).
    """
    count = _Count(where)
    _check(model.graph, (), where, count, 0)
    keys = [(function.domain, function.name) for function in model.functions]
    if len(set(keys)) != len(keys):
        raise BadData("onnx.graph", f"{where}: a function is defined twice", _HOSTILE)
    for function in model.functions:
        known = _names(function.input, f"{where}, function {shown(function.name)}")
        _check_nodes(function.node, known, (), where, count, 0)
        _check_made(function.output, (known,), where)
    _check_recursion(model, set(keys), where)


class _Count:
    """Nodes seen so far, of all graphs together."""

    def __init__(self, where: str):
        self.nodes, self.where = 0, where

    def add(self, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise BadData("onnx.limits", f"{self.where}: more than {MAX_NODES} nodes", _HOSTILE)


def _names(names: Any, where: str) -> set[str]:
    found: set[str] = set()
    for name in names:
        if len(name) > MAX_NAME:
            raise BadData("onnx.limits", f"{where}: a name of {len(name)} letters", _HOSTILE)
        if name in found:
            raise BadData("onnx.graph", f"{where}: the name {shown(name)} stands twice", _HOSTILE)
        found.add(name)
    return found


# The names that a graph sees: its own, and those of the graphs around it so far.
_Scopes = tuple[set[str], ...]


def _check(graph: Any, outer: _Scopes, where: str, count: _Count, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadData("onnx.limits", f"{where}: graphs nest deeper than {MAX_DEPTH}", _HOSTILE)
    inputs = _names([item.name for item in graph.input], f"{where}, inputs")
    weights = _names(
        [item.name for item in graph.initializer]
        + [item.values.name for item in graph.sparse_initializer],
        f"{where}, initializers",
    )
    known = inputs | weights
    _check_nodes(graph.node, known, outer, where, count, depth)
    _names([item.name for item in graph.output], f"{where}, outputs")
    _check_made([item.name for item in graph.output], (known, *outer), where)


def _check_nodes(
    nodes: Any, known: set[str], outer: _Scopes, where: str, count: _Count, depth: int
) -> None:
    """Checks nodes in order; `known` grows by what they make."""
    count.add(len(nodes))
    later: set[str] | None = None
    for node in nodes:
        for name in node.input:
            if name and name not in known and not any(name in scope for scope in outer):
                if later is None:
                    later = {output for other in nodes for output in other.output}
                reason = (
                    "which only a later node makes: the graph has a cycle, or its nodes are not in "
                    "order"
                    if name in later
                    else "which nothing makes"
                )
                raise BadData(
                    "onnx.graph",
                    f"{where}: {name_of(node)} uses {shown(name)}, {reason}",
                    _HOSTILE,
                )
        for graph in subgraphs(node):
            _check(graph, (known, *outer), where, count, depth + 1)
        for name in node.output:
            if len(name) > MAX_NAME:
                raise BadData("onnx.limits", f"{where}: a name of {len(name)} letters", _HOSTILE)
            if name and name in known:
                raise BadData(
                    "onnx.graph",
                    f"{where}: {name_of(node)} makes {shown(name)}, which is there already",
                    _HOSTILE,
                )
            known.add(name)


def _check_made(names: Any, scopes: _Scopes, where: str) -> None:
    lacking = [name for name in names if not any(name in scope for scope in scopes)]
    if lacking:
        raise BadData("onnx.graph", f"{where}: nothing makes the output {few(lacking)}", _HOSTILE)


def _check_recursion(model: Any, keys: set[tuple[str, str]], where: str) -> None:
    """Functions must not call each other in a circle, nor in a tree that explodes."""
    calls = {
        (function.domain, function.name): [
            key
            for node in _all_nodes(function.node)
            if (key := (node.domain, node.op_type)) in keys
        ]
        for function in model.functions
    }
    sizes: dict[tuple[str, str], int] = {}
    own = {(f.domain, f.name): len(f.node) for f in model.functions}

    def size(key: tuple[str, str], path: tuple[tuple[str, str], ...]) -> int:
        if key in path or len(path) > MAX_DEPTH:
            raise BadData(
                "onnx.graph",
                f"{where}: function {shown(key[1])} calls itself, or nests too deeply",
                _HOSTILE,
            )
        if key not in sizes:
            sizes[key] = own[key] + sum(size(other, (*path, key)) for other in calls[key])
        return sizes[key]

    total = sum(
        size(key, ())
        for node in _all_nodes(model.graph.node)
        if (key := (node.domain, node.op_type)) in keys
    )
    for key in calls:
        size(key, ())
    if total > MAX_NODES:
        raise BadData("onnx.limits", f"{where}: its functions make {total} nodes", _HOSTILE)


def _all_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _all_nodes(graph.node)
