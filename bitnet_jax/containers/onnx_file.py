"""Reading ONNX models that nobody vouches for: the protobuf, and the data files beside it.

The protobuf is parsed by the `onnx` package, which is imported when the first file is opened; what
it takes on faith is checked here. A tensor's data is read when asked. Knows no op and no model.
Writing is the exporter's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import Blob
from bitnet_jax.containers.errors import TensorError, find_row
from bitnet_jax.containers.onnx_external import Places, Span, check_location
from bitnet_jax.containers.onnx_graph import check_graph, check_text, subgraphs
from bitnet_jax.containers.onnx_types import (
    STRING,
    TYPES,
    ElementType,
    byte_size,
    from_bytes,
    from_field,
)
from bitnet_jax.containers.sniff import HEAD, wrong_kind
from bitnet_jax.core.errors import BadData, shown

# A protobuf's own limit; what is larger has its tensors in other files.
MAX_PROTOBUF = (1 << 31) - 1
MAX_RANK = 32
_MAX_SPAN = (1 << 63) - 1
_TENSOR, _TENSORS = 4, 9  # AttributeProto.AttributeType
_RAW, _EXTERNAL = 0, 1
_HOSTILE = "the file is damaged or hostile: export the model again"
# The domains that ONNX itself defines; a model may import others for nodes that it never has.
_OWN = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxTensor:
    """One tensor of a model, not read yet.

    Invariants: its data has exactly the bytes that `shape` and `kind` take; `span` is None for
    data inside the protobuf.
    """

    name: str
    kind: ElementType
    shape: tuple[int, ...]
    proto: Any
    span: Span | None

    @property
    def nbytes(self) -> int:
        """Bytes of its data in the file."""
        return byte_size(self.kind, self.shape)


class OnnxFile:
    """An open model: `graph`, `functions`, `opsets`, `metadata`, `tensors` and reads.

    Attributes:
      graph: the main GraphProto; what `check_graph` says holds for it.
      functions: model-local functions by (domain, name).
      opsets: domain -> version.
      tensors: the main graph's initializers by name.
    """

    def __init__(self, path: Path, model: Any, places: Places):
        self.path = path
        self.where = f"`{path}`"
        self.model = model
        self.graph = model.graph
        self.functions = {(item.domain, item.name): item for item in model.functions}
        self.opsets = {_domain(item.domain): item.version for item in model.opset_import}
        self.metadata = {item.key: item.value for item in model.metadata_props}
        self._places = places
        self.tensors: dict[str, OnnxTensor] = {
            item.name: self.tensor(item) for item in self.graph.initializer
        }

    def tensor(self, proto: Any) -> OnnxTensor:
        """Checks a TensorProto of this model: type, shape, and where its data lies.

        Raises:
          TensorError: the codes ``onnx.tensor``, ``onnx.dtype`` and ``onnx.external_*``.
        """
        return _tensor(proto, self._places, self.where)

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of the files beside it that hold the data of its initializers."""
        return self._places.names

    def info(self, name: str) -> OnnxTensor:
        """Returns the initializer `name`.

        Raises:
          TensorError: there is none (code ``onnx.missing``).
        """
        return find_row(
            self.tensors, name, "onnx.missing", f"{self.where} has no initializer {shown(name)}"
        )

    def read_bytes(self, name: str) -> np.ndarray:
        """The data of an initializer as it lies in the file, uint8.

        Raises:
          TensorError: it stands in the protobuf as numbers (code ``onnx.tensor``).
        """
        tensor = self.info(name)
        if tensor.span is not None:
            return self._places.read(tensor.span)
        if not tensor.proto.HasField("raw_data") and tensor.nbytes:
            raise TensorError(
                "onnx.tensor",
                f"{self.where}, tensor {shown(name)}: its elements stand as numbers, not as bytes",
                "convert again from the source",
                tensor=name,
            )
        return np.frombuffer(tensor.proto.raw_data, np.uint8).copy()

    def read(self, item: str | OnnxTensor) -> np.ndarray:
        """Reads a tensor in its dtype and shape; one below a byte has one element a byte."""
        tensor = self.info(item) if isinstance(item, str) else item
        if tensor.span is not None:
            return from_bytes(self._places.read(tensor.span), tensor.kind, tensor.shape)
        proto = tensor.proto
        if proto.HasField("raw_data"):
            raw = np.frombuffer(proto.raw_data, np.uint8).copy()
            return from_bytes(raw, tensor.kind, tensor.shape)
        values: np.ndarray = np.array(getattr(proto, tensor.kind.field), _FIELDS[tensor.kind.field])
        try:
            return from_field(values, tensor.kind, tensor.shape)
        except (ValueError, OverflowError) as error:
            raise TensorError(
                "onnx.tensor",
                f"{self.where}, tensor {shown(tensor.name)}: {error}",
                _HOSTILE,
                tensor=tensor.name,
            ) from error


_FIELDS: Mapping[str, type] = {
    "float_data": np.float32,
    "double_data": np.float64,
    "int32_data": np.int32,
    "int64_data": np.int64,
    "uint64_data": np.uint64,
}


def _domain(name: str) -> str:
    return "" if name in _OWN else name


def open_onnx(path: os.PathLike | str) -> OnnxFile:
    """Opens `path` and checks all of it but the values of its tensors.

    Raises:
      NoInput, PermissionDenied, IOFailure: from the operating system.
      BadData: anything else: see the codes ``file.*`` and ``onnx.*``.
    """
    path = Path(path)
    model = _read(path)
    file = OnnxFile(path, model, Places(path))
    for proto in _other_tensors(model):
        file.tensor(proto)
    return file


def data_locations(path: os.PathLike | str) -> list[str]:
    """The files beside a graph that hold its tensors' data, which need not be there yet.

    Raises:
      BadData: it is no sound graph, or a path leaves its folder (``onnx.external_path``).
    """
    path = Path(path)
    model = _read(path)
    found: set[str] = set()
    for proto in (*model.graph.initializer, *_other_tensors(model)):
        if proto.data_location != _EXTERNAL:
            continue
        where = f"`{path}`, tensor {shown(proto.name)}"
        for row in proto.external_data:
            if row.key == "location":
                parts = check_location(row.value, proto.name[:200], where)
                found.add("/".join(part for part in parts if part != "."))
    return sorted(found)


def _read(path: Path) -> Any:
    """The ModelProto of a file, its graph checked and none of its tensors."""
    blob = Blob(path)
    head = blob.read(0, min(HEAD, blob.size)).tobytes()
    if not head:
        raise wrong_kind(path, head, "an ONNX model")
    if blob.size > MAX_PROTOBUF:
        raise BadData(
            "onnx.limits",
            f"`{path}` has {blob.size} bytes; a protobuf has at most {MAX_PROTOBUF}",
            "export it with its tensors as external data",
        )
    model = _parse(blob, path, head)
    where = f"`{path}`"
    check_text(model, where)
    if not model.HasField("graph") or not model.opset_import:
        raise wrong_kind(path, head, "an ONNX model")
    _check_versions(model, where)
    check_graph(model, where)
    return model


def _parse(blob: Blob, path: Path, head: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.ModelProto.FromString(memoryview(blob.read(0, blob.size)).tobytes())
    except (DecodeError, RecursionError, ValueError) as error:
        if head[:1] != b"\x08":  # ir_version comes first in all that anybody writes
            raise wrong_kind(path, head, "an ONNX model") from error
        raise BadData(
            "onnx.protobuf",
            f"`{path}` is no whole ONNX protobuf: {str(error)[:200]}",
            "the file is cut short or damaged: download or copy it again",
        ) from error


def _check_versions(model: Any, where: str) -> None:
    import onnx

    newest = int(onnx.IR_VERSION)
    if not 3 <= model.ir_version <= newest:
        raise BadData(
            "onnx.version",
            f"{where}: its IR version is {model.ir_version}; known: 3 to {newest}",
            "export it again, or update the package `onnx`",
        )
    seen: set[str] = set()
    for item in model.opset_import:
        domain = _domain(item.domain)
        most = onnx.defs.onnx_opset_version() if not domain else _MAX_SPAN
        if domain in seen or not 1 <= item.version <= most:
            raise BadData(
                "onnx.version",
                f"{where}: it imports opset {item.version} of domain {shown(item.domain)}"
                + (", which it imports already" if domain in seen else f"; known: 1 to {most}"),
                "export it again for a known opset, or update the package `onnx`",
            )
        seen.add(domain)


def _other_tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto but the main graph's initializers."""
    yield from _of_nodes(model.graph.node)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == _TENSOR:
                yield attribute.t
            elif attribute.type == _TENSORS:
                yield from attribute.tensors
        for graph in subgraphs(node):
            yield from graph.initializer
            yield from _of_nodes(graph.node)


def _tensor(proto: Any, places: Places, where: str) -> OnnxTensor:
    name = proto.name
    where = f"{where}, tensor {shown(name)}"

    def malformed(message: str) -> TensorError:
        return TensorError("onnx.tensor", f"{where}: {message}", _HOSTILE, tensor=name[:200])

    def unknown(message: str) -> TensorError:
        return TensorError("onnx.dtype", f"{where}: {message}", _HOSTILE, tensor=name[:200])

    shape = tuple(int(size) for size in proto.dims)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise malformed(f"shape {shown(list(shape))} is no list of sizes (at most {MAX_RANK})")
    if proto.data_type == STRING:
        raise unknown("its elements are strings, which no model here computes with")
    kind = TYPES.get(proto.data_type)
    if kind is None:
        raise unknown(
            f"element type {proto.data_type} is not one of "
            + ", ".join(row.name for row in TYPES.values())
        )
    # A zero must not hide an absurd size beside it; as elements and as bytes of numpy.
    if math.prod(max(size, 1) for size in shape) * max(kind.numpy.itemsize, 1) > _MAX_SPAN:
        raise malformed(f"shape {shown(list(shape))} overflows")
    if proto.HasField("segment"):
        raise malformed("it is a segment of a tensor, which no exporter writes")
    wanted = byte_size(kind, shape)
    if proto.data_location == _EXTERNAL:
        keys = [row.key for row in proto.external_data]
        if len(set(keys)) != len(keys):
            raise malformed("a key of its external data stands twice")
        rows = {row.key: row.value for row in proto.external_data}
        return OnnxTensor(name, kind, shape, proto, places.span(rows, wanted, name[:200], where))
    if proto.data_location != _RAW:
        raise malformed(f"its data location is {proto.data_location}")
    if proto.HasField("raw_data"):
        found, least = len(proto.raw_data), wanted
    else:
        found, least = len(getattr(proto, kind.field)), math.prod(shape)
        if kind.bits < 8:
            least = wanted
        elif kind.numpy.kind == "c":
            least *= 2
    if found != least:
        what = "bytes" if proto.HasField("raw_data") else "elements"
        raise malformed(f"{found} {what} of data, and shape {shown(list(shape))} takes {least}")
    return OnnxTensor(name, kind, shape, proto, None)
