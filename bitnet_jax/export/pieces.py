"""A written graph cut into pieces that can run one after another, each with few of the weights.

A piece is a stretch of the graph's own nodes: it reads what pieces before it made, and its weights
where they lie. A matrix too large for a piece (a head) is multiplied by some of its rows at a time.
`check_cut` says that the pieces are the whole graph. Knows ONNX; no runtime, no layer's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from bitnet_jax.core.errors import InternalError
from bitnet_jax.export.builder import ONNX_TYPES, reads

# What the weights of a piece may take as a runtime holds them: a layer of the 8B shape has 218 MB.
PIECE_BYTES = 256 << 20
_FLOATS = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
)
_GATHER = "Gather"
# Caches of a layer: of keys and of values.
_OF_A_LAYER = 2


@dataclass(frozen=True)
class Piece:
    """A stretch of the nodes.

    Attributes:
      nodes: in an order in which they can run.
      inputs: names that it reads: inputs of the graph, and values of pieces before it.
      outputs: names of what it makes for later pieces, and results of the graph.
      table: a parameter [rows, width] of which it may be given some rows: the last axis of its one
        output is these; None in all other pieces.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    table: str | None = None


def cut(
    model: onnx.ModelProto,
    carried: Mapping[str, str],
    most: int | None = None,
    *,
    layers: bool = False,
) -> list[Piece]:
    """The pieces of a model, in order, a layer's at most; one where its weights are few.

    Args:
      model: with its weights in files of their own, which are not looked at.
      carried: inputs of the graph that are results of the call before (a cache): who reads one and
        who makes the other stand in one piece, so that a piece can go through all calls before the
        next piece starts.
      most: bytes of weights to a piece; `PIECE_BYTES` if None. What cannot be cut is larger.
      layers: cut it even where its weights are few.
    """
    plan = _Plan(model, carried, PIECE_BYTES if most is None else most)
    return plan.pieces(whole=not layers)


def weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The initializers that lie in a file of their own, by name."""
    return {t.name: t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL}


class _Plan:
    """The nodes in an order, and where that may be cut."""

    def __init__(self, model: onnx.ModelProto, carried: Mapping[str, str], most: int):
        self._graph, self._most = model.graph, most
        self._weights = weights(model)
        self._known = {tensor.name for tensor in model.graph.initializer}
        self._given = {item.name for item in model.graph.input}
        self._results = {item.name for item in model.graph.output}
        self._nodes = self._late(list(model.graph.node))
        self._reads = [reads(node) for node in self._nodes]
        self._closed, self._caches = self._carry(carried), frozenset(carried.values())

    def pieces(self, whole: bool) -> list[Piece]:
        end = len(self._nodes)
        if whole and self._taken(range(end)) <= self._most:
            return [self._piece(0, end, None)]
        tables = self._tables()
        places: list[tuple[int, int, str | None]] = []
        start = 0
        for first, after, name in tables:
            places += [(a, b, None) for a, b in self._stretches(start, first)]
            places.append((first, after, name))
            start = after
        places += [(a, b, None) for a, b in self._stretches(start, end)]
        return [self._piece(*place) for place in places]

    # ------------------------------------------------------------------------ the order
    def _late(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """What only turns weights, or reads one or an input, stands right before its first reader.

        As a graph is written, all casts of all layers' norms may stand at its start.
        """
        still: set[str] = set(self._known)
        turning = []
        for node in nodes:
            turning.append(still.issuperset(reads(node)))
            if turning[-1]:
                still.update(node.output)
        near = self._weights.keys() | self._given
        slots, first = list(range(len(nodes))), dict[str, int]()
        for at in reversed(range(len(nodes))):
            node = nodes[at]
            sinks = turning[at] or not near.isdisjoint(node.input)
            readers = [first[name] for name in node.output if name in first]
            if sinks and readers and self._results.isdisjoint(node.output):
                slots[at] = min(readers)
            for name in reads(node):
                first[name] = min(first.get(name, slots[at]), slots[at])
        return [nodes[at] for at in sorted(range(len(nodes)), key=lambda at: (slots[at], at))]

    @cached_property
    def _made(self) -> dict[str, int]:
        return {name: at for at, node in enumerate(self._nodes) for name in node.output if name}

    @cached_property
    def _read_by(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for at, names in enumerate(self._reads):
            for name in names:
                found.setdefault(name, []).append(at)
        return found

    # ------------------------------------------------------------------------ the places
    def _carry(self, carried: Mapping[str, str]) -> set[int]:
        """Where no cut may be, before the node of that number."""
        closed: set[int] = set()
        for name, result in carried.items():
            ends = [*self._read_by.get(name, ()), self._made.get(result, 0)]
            closed.update(range(min(ends) + 1, max(ends) + 1))
        return closed

    @cached_property
    def _live(self) -> list[int]:
        """How many values go over each place."""
        change = [0] * (len(self._nodes) + 2)
        for name, at in self._made.items():
            last = self._read_by.get(name, [at])[-1]
            change[at + 1] += 1
            change[last + 1] -= 1
        return list(np.cumsum(change))

    def _costs(self, at: int) -> Iterator[tuple[str, int]]:
        """The weights that a node reads, and what each takes; of a lookup, a few of its rows."""
        node = self._nodes[at]
        for name in self._reads[at] & self._weights.keys():
            looked_up = node.op_type == _GATHER and name == node.input[0]
            yield name, 0 if looked_up else _bytes(self._weights[name])

    def _stretches(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Pieces of `start` to `end`, cut where the fewest values go over: between layers."""
        while start < end:
            held: dict[str, int] = {}
            places: list[tuple[int, int]] = []
            caches = 0
            for at in range(start, end):
                _hold(held, self._costs(at))
                taken = sum(held.values())
                caches += len(self._caches.intersection(self._nodes[at].output))
                if places and (taken > self._most or caches > _OF_A_LAYER):
                    break
                if at + 1 == end or at + 1 not in self._closed:
                    places.append((at + 1, taken))
            else:
                places = [(end, 0)]
            half = places[-1][1] / 2
            full = [place for place, taken in places if taken >= half]
            least = min(reversed(full), key=lambda at: self._live[at])
            yield start, least
            start = least

    def _taken(self, places: range) -> int:
        """What the weights of these nodes take."""
        held: dict[str, int] = {}
        for at in places:
            _hold(held, self._costs(at))
        return sum(held.values())

    def _tables(self) -> list[tuple[int, int, str]]:
        """Stretches that only multiply by a float matrix that is too large for a piece."""
        found = []
        for name, tensor in self._weights.items():
            if (
                len(tensor.dims) == 2
                and tensor.data_type in _FLOATS
                and _bytes(tensor) > self._most
            ):
                place = self._product(name)
                if place is not None:
                    found.append((*place, name))
        return sorted(found)

    def _product(self, table: str) -> tuple[int, int] | None:
        """Where ``x @ table.T`` stands: perhaps a cast, a transpose, the product."""
        name, chain = table, list[int]()
        for wanted in ("Cast", "Transpose", "MatMul"):
            readers = [at for at in self._read_by.get(name, ()) if not self._picks(at, name)]
            if len(readers) != 1 or name in self._results:
                return None
            node = self._nodes[readers[0]]
            if node.op_type != wanted:
                if wanted == "Cast":
                    continue
                return None
            if wanted == "Transpose" and list(node.attribute[0].ints) != [1, 0]:
                return None
            if wanted == "MatMul" and (node.input[1] != name or node.input[0] == name):
                return None
            chain += readers
            name = node.output[0]
        start, end = chain[0], chain[-1] + 1
        if chain != list(range(start, end)) or self._closed & {start, end}:
            return None
        return start, end

    def _picks(self, at: int, name: str) -> bool:
        node = self._nodes[at]
        return node.op_type == _GATHER and node.input[0] == name and name in self._weights

    # ------------------------------------------------------------------------ a piece
    def _piece(self, start: int, end: int, table: str | None) -> Piece:
        nodes = self._nodes[start:end]
        made = {name for node in nodes for name in node.output if name}
        read = set().union(*self._reads[start:end])
        later = self._results.union(*self._reads[end:])
        wanted = read - made - self._known
        return Piece(tuple(nodes), tuple(sorted(wanted)), tuple(sorted(made & later)), table)


def _hold(held: dict[str, int], costs: Iterator[tuple[str, int]]) -> None:
    for name, cost in costs:
        held[name] = max(held.get(name, 0), cost)


def _bytes(tensor: onnx.TensorProto) -> int:
    """What a runtime holds of it: floats are widened, codes become bytes."""
    return prod(tensor.dims) * (4 if tensor.data_type in _FLOATS else 1)


# ------------------------------------------------------------------------------------ the proof
def check_cut(model: onnx.ModelProto, pieces: Sequence[Piece]) -> None:
    """Raises unless the pieces are the graph: each node in one, each value made before it is read.

    Raises:
      InternalError: they are not (``export.pieces``).
    """
    graph = model.graph
    there = sorted(node.SerializeToString(deterministic=True) for node in graph.node)
    cut_up = sorted(
        node.SerializeToString(deterministic=True) for piece in pieces for node in piece.nodes
    )
    known = {item.name for item in graph.input}
    fixed = {tensor.name for tensor in graph.initializer}
    wrong = "other nodes" if there != cut_up else ""
    for piece in pieces:
        made = {name for node in piece.nodes for name in node.output}
        read = set().union(*(reads(node) for node in piece.nodes)) - made - fixed
        if not read <= set(piece.inputs) <= known:
            wrong = wrong or f"a value that no piece before made: {sorted(read - known)[:1]}"
        known.update(set(piece.outputs) & made)
    lacking = {item.name for item in graph.output} - known
    if wrong or lacking:
        raise InternalError(
            "export.pieces",
            f"the graph's pieces are not the graph: {wrong or f'{sorted(lacking)[0]} is not made'}",
            "this is a bug: please report it; --no-probe writes the file without running it",
        )


# ------------------------------------------------------------------------------------ the models
def piece_model(
    model: onnx.ModelProto,
    piece: Piece,
    values: Sequence[Mapping[str, np.ndarray]],
    rows: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """A piece as a model; its weights lie where the whole model's do.

    Args:
      values: of its inputs at each call. What of a shape is the same at all is stated.
      rows: of the piece's table, from the first to before the second.
    """
    graph = model.graph
    stated = {item.name: item for item in (*graph.input, *graph.output)}
    read = set().union(*(reads(node) for node in piece.nodes))
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    if rows is not None:
        tensors = [_rows(t, *rows) if t.name == piece.table else t for t in tensors]
    inputs = [
        stated.get(name) or _info(name, [call[name] for call in values]) for name in piece.inputs
    ]
    # Of a result that is only a value here, the runtime finds the type itself.
    outputs = [onnx.ValueInfoProto(name=name) for name in piece.outputs]
    return helper.make_model(
        helper.make_graph(piece.nodes, graph.name, inputs, outputs, tensors),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )


def _info(name: str, values: Sequence[np.ndarray]) -> onnx.ValueInfoProto:
    shape = [
        sizes[0] if len(set(sizes)) == 1 else None
        for sizes in zip(*(value.shape for value in values), strict=True)
    ]
    return helper.make_tensor_value_info(name, ONNX_TYPES[str(values[0].dtype)], shape)


def _rows(tensor: onnx.TensorProto, start: int, end: int) -> onnx.TensorProto:
    """Some rows of a matrix, where they lie in its file."""
    out = onnx.TensorProto()
    out.CopyFrom(tensor)
    out.dims[0] = end - start
    row = {entry.key: entry for entry in out.external_data}
    width = int(row["length"].value) // tensor.dims[0]
    row["offset"].value = str(int(row["offset"].value) + start * width)
    row["length"].value = str((end - start) * width)
    return out
