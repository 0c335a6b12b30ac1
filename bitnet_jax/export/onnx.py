"""A Program as an ONNX model: the graph, and the two files that hold it.

Works for any Program, whatever its parameters are packed as. Knows no checkpoint and no family.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bitnet_jax.containers.onnx_write import DataWriter, data_name, set_metadata, write_graph
from bitnet_jax.core import jax_compat, paths
from bitnet_jax.core.errors import UsageError
from bitnet_jax.core.writing import new_file
from bitnet_jax.export.builder import CONTRIB, ONNX_TYPES, Builder, live_nodes
from bitnet_jax.export.dims import Dims, is_static
from bitnet_jax.export.lowering import Lowering
from bitnet_jax.export.profiles import Profile
from bitnet_jax.export.table import ON_CODES, TABLE
from bitnet_jax.export.weights import Codes, TwoForms, Weights, stored
from bitnet_jax.ir.program import Program

FORMAT = "1"
PRODUCER = "bitnet-jax"
# A constant of so many bytes goes where the parameters are: the graph itself stays small.
LARGE_CONSTANT = 1 << 12


@dataclass(frozen=True)
class Port:
    """An input or a result of the graph.

    Attributes:
      dtype: that it has outside; the program's own if None.
    """

    name: str
    dtype: str | None = None


@dataclass(frozen=True)
class Lowered:
    """A Program in ONNX, its parameters still elsewhere.

    Attributes:
      model: the graph without initializers.
      rows: of the parameters that it reads, as the file's table has them.
      constants: initializers that are no parameters.
    """

    model: onnx.ModelProto
    rows: Mapping[str, Mapping[str, Any]]
    constants: Sequence[onnx.TensorProto]


def lower(
    program: Program,
    leaves: Mapping[str, Any],
    profile: Profile,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
) -> Lowered:
    """Writes `program` in ONNX.

    Args:
      leaves: its parameters by name, abstract: arrays' types with their source's dtype, and
        `QuantTensor`s.
      inputs, outputs: a port for each of its inputs and results, in order.

    Raises:
      UsageError: a primitive that has no rule, or a form of one; the message names it and the
        user's line (``export.primitive``, ``export.form``, ``export.dtype``, …).
    """
    plain: frozenset[str] = frozenset()
    while True:
        try:
            return _lower(program, leaves, profile, inputs, outputs, plain)
        except TwoForms as found:
            plain |= {found.leaf}


def _lower(
    program: Program,
    leaves: Mapping[str, Any],
    profile: Profile,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    plain: frozenset[str],
) -> Lowered:
    ports = [port.name for port in (*inputs, *outputs)]
    _check_apart(ports, [*leaves, *program.param_names])
    builder = Builder({*ports, *leaves, *program.param_names})
    dims = Dims(builder)
    weights = Weights(builder, profile, leaves, plain)
    low = Lowering(builder, dims, weights, profile, TABLE, ON_CODES)
    arguments: list[Any] = [
        weights.argument(name, aval)
        for name, aval in zip(program.param_names, program.param_avals, strict=True)
    ]
    infos = []
    for port, aval in zip(inputs, program.input_avals, strict=True):
        outside = port.dtype or str(aval.dtype)
        infos.append(_info(port.name, outside, aval.shape))
        dims.learn(port.name, aval.shape)
        same = outside == str(aval.dtype)
        arguments.append(port.name if same else builder.cast(port.name, str(aval.dtype)))
    closed = program.jaxpr
    # What is dead inside a loop (the random keys of layers that drop nothing out) goes first.
    results = low.run(jax_compat.without_dead(closed.jaxpr), closed.consts, arguments)
    ends = []
    for port, aval, value in zip(outputs, closed.out_avals, results, strict=True):
        if isinstance(value, Codes):
            raise UsageError(
                "export.codes_use",
                f"the packed codes of `{value.leaf}` are a result of the function",
                "return what is computed with them",
            )
        outside = port.dtype or str(aval.dtype)
        value = value if outside == str(aval.dtype) else builder.cast(value, outside)
        node = helper.make_node("Identity", [value], [port.name], name=port.name)
        builder.scope.nodes.append(node)
        ends.append(_info(port.name, outside, aval.shape))
    nodes, wanted = live_nodes(builder.scope.nodes, [port.name for port in outputs])
    nodes = _named_by_ports(nodes, {port.name for port in (*inputs, *outputs)})
    builder.parameters = {name: None for name in builder.parameters if name in wanted}
    graph = helper.make_graph(nodes, "bitnet", infos, ends)
    opsets = [helper.make_opsetid("", profile.opset)]
    if builder.contrib:
        opsets.append(helper.make_opsetid(CONTRIB, 1))
    model = helper.make_model(
        graph,
        producer_name=PRODUCER,
        opset_imports=opsets,
        ir_version=helper.OP_SET_ID_VERSION_MAP["ai.onnx", profile.opset],
    )
    constants = [tensor for name, tensor in builder.constants.items() if name in wanted]
    return Lowered(model, weights.rows(), constants)


def _check_apart(ports: Sequence[str], parameters: Sequence[str]) -> None:
    twice = sorted({name for name in ports if name in parameters or ports.count(name) > 1})
    if twice:
        raise UsageError(
            "export.names",
            f"the input or result `{twice[0]}` has the name of another one, or of a parameter",
            "give other names: `inputs=[…]`, `outputs=[…]`",
        )


def _info(name: str, dtype: str, shape: Sequence[Any]) -> onnx.ValueInfoProto:
    if dtype not in ONNX_TYPES:
        raise UsageError(
            "export.dtype",
            f"`{name}` has the dtype {dtype}, which is not exported",
            f"known: {', '.join(ONNX_TYPES)}",
        )
    sizes = [int(dim) if is_static(dim) else str(dim) for dim in shape]
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], sizes)


def _named_by_ports(nodes: list[onnx.NodeProto], ports: set[str]) -> list[onnx.NodeProto]:
    """Less the copies at the end, where a result's maker may have its name itself."""
    renamed: dict[str, str] = {}
    made = {name for node in nodes for name in node.output} - ports
    kept = []
    for node in nodes:
        if node.op_type == "Identity" and node.output[0] in ports:
            source = node.input[0]
            if source in made and source not in renamed:
                renamed[source] = node.output[0]
                continue
        kept.append(node)
    for node in kept:
        _rename(node, renamed)
    return kept


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for part in (node.input, node.output):
        for index, name in enumerate(part):
            part[index] = names.get(name, name)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                _rename(inner, names)


# ------------------------------------------------------------------------------------ the files
def write(
    lowered: Lowered,
    read: Callable[[str], Any],
    path: Path,
    metadata: Mapping[str, str],
    *,
    force: bool = False,
    prove: Callable[[Path], None] = lambda path: None,
) -> tuple[Path, Path]:
    """Writes the graph and, beside it, its data; a parameter is read as its turn comes.

    Args:
      read: a parameter by name, in numpy.
      metadata: properties of the model beside the table and the checksums.
      prove: called with the path of a whole model before the files get their names; what it
        raises leaves nothing behind.

    Returns:
      The graph's path and the data's.

    Raises:
      CannotCreate: one of them exists, and `force` is false.
    """
    beside = path.with_name(data_name(path.name))
    with paths.atomic_file(path, force=force) as graph:
        # The data get their name first: a graph never stands without them.
        with paths.atomic_file(beside, force=force) as data:
            # What is proven must lie together, under its own names, and be no link: ONNX's
            # checker and runtimes refuse data that are.
            with paths.scratch_directory(Path(data.name).parent) as folder:
                whole, its_data = folder / path.name, folder / beside.name
                with new_file(its_data) as stream:
                    model = _with_data(lowered, read, metadata, DataWriter(stream, beside.name))
                with new_file(whole) as stream:
                    write_graph(model, stream, path)
                prove(whole)
                for now, stream in ((its_data, data), (whole, graph)):
                    paths.sync_file(now)
                    os.replace(now, stream.name)
    return path, beside


def _with_data(
    lowered: Lowered,
    read: Callable[[str], Any],
    metadata: Mapping[str, str],
    writer: DataWriter,
) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(lowered.model)
    initializers = model.graph.initializer
    for name, row in lowered.rows.items():
        for suffix, (dtype, shape, array) in stored(row, read(name)).items():
            initializers.append(writer.add(name + suffix, ONNX_TYPES[dtype], shape, array))
    for tensor in lowered.constants:
        if len(tensor.raw_data) < LARGE_CONSTANT:
            initializers.append(tensor)
            continue
        raw = np.frombuffer(tensor.raw_data, np.uint8)
        initializers.append(writer.add(tensor.name, tensor.data_type, tuple(tensor.dims), raw))
    table = {"bitnet.rows": lowered.rows, "bitnet.checksums": writer.checksums}
    texts = {key: as_json(value) for key, value in table.items()}
    set_metadata(model, {"bitnet.format": FORMAT, **metadata, **texts})
    return model


def as_json(value: Any) -> str:
    """JSON as the properties hold it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
