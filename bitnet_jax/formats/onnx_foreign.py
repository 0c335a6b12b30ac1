"""Decoders that others exported to ONNX, as checkpoints: the config says which, names say where.

PyTorch's exporters keep a parameter's name where they store it as it is, and call it
``onnx::MatMul_123`` or ``val_44`` where they turned it; equal tensors become one. The node that
uses it says its module then, by its name (``/model/layers.0/mlp/up_proj/MatMul``) or by its scopes.
What is quantized is read as the floats it stands for. What is computed between the weights is taken
from the config; the graph's own program goes along (`onnx_wiring`), for whoever compares the two.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.containers.dtypes import NAMES
from bitnet_jax.containers.errors import TensorError
from bitnet_jax.containers.onnx_file import OnnxFile, OnnxTensor
from bitnet_jax.containers.safetensors import TensorInfo
from bitnet_jax.core.errors import BadData, few
from bitnet_jax.formats import huggingface_config, tokenizer_files
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.huggingface import checkpoint_of_stored, small_files
from bitnet_jax.formats.huggingface_weights import Stored
from bitnet_jax.formats.model_files import CONFIG, GRAPH_FOLDER
from bitnet_jax.formats.onnx_ops import quantized
from bitnet_jax.formats.onnx_walk import Graph, Step, compile_graph
from bitnet_jax.formats.onnx_wiring import own_program
from bitnet_jax.models.names import Expected, expected

_SCOPES = "pkg.torch.onnx.name_scopes"


def open_foreign(file: OnnxFile) -> Checkpoint:
    """The decoder that a graph of another exporter is.

    Raises:
      BadData: no config stands beside it (``onnx.no_config``), or weights that its family has
        are not found (``onnx.missing_weight``).
    """
    folder = _config_folder(file.path.parent)
    if tokenizer_files.read_small(folder / CONFIG) is None:
        raise BadData(
            "onnx.no_config",
            f"{file.where} is an ONNX graph that this package did not write, and `{folder}` has no "
            f"{CONFIG}: nothing tells its number of heads, its rotary base or its activation",
            f"put the model's {CONFIG} (and its tokenizer's files) beside it; to run or transform "
            "any graph as it is: fn, params = bj.from_onnx(path)",
        )
    raw = tokenizer_files.read_json(folder / CONFIG)
    generation = tokenizer_files.read_json(folder / tokenizer_files.GENERATION)
    config = huggingface_config.parse(raw, generation, f"`{folder / CONFIG}`")
    graph = compile_graph(file, known=False)
    weights = _weights(file, graph, expected(config.spec))
    kinds = {name: weight.kind for name, (weight, _) in weights.items()}
    stored = Stored(weights, {}, kinds=kinds)
    beside = "" if folder == file.path.parent else "../"
    detail = {
        "producer": file.model.producer_name,
        "files": sorted({*file.data_files, *(beside + name for name in small_files(folder))}),
    }
    found = checkpoint_of_stored(file.path, folder, config, stored, "onnx", detail, {})
    return replace(found, own=own_program(file, graph, config.spec.vocab_size))


def _config_folder(folder: Path) -> Path:
    """Where the config of a graph in `folder` stands: beside it, or above a folder of graphs."""
    above = folder.parent
    if folder.name == GRAPH_FOLDER and not (folder / CONFIG).exists() and (above / CONFIG).exists():
        return above
    return folder


# --------------------------------------------------------------------------- one weight
@dataclass(frozen=True)
class _Weight:
    """A float array of the file, not read yet: what a reader of tensors is asked for."""

    value: Callable[[], np.ndarray]
    kind: str  # the type of the initializer that holds it

    def read(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self.value())

    def read_prefix(self, name: str, count: int) -> np.ndarray:
        return self.read(name).reshape(-1)[:count]


@dataclass(frozen=True)
class _Found:
    """An operand of a node that comes from initializers alone.

    Attributes:
      module: of the node that uses it.
      use: ``product`` for a matrix [in, out], ``turned`` for one [out, in], else the operator.
      held: the initializers that it is made of, the one of its elements first.
      root: the initializer that it is, where it is one as it stands.
    """

    module: str
    use: str
    slot: int
    shape: tuple[int, ...]
    dtype: np.dtype
    value: Callable[[], np.ndarray]
    held: tuple[OnnxTensor, ...]
    root: str = ""

    def matrix(self) -> _Found:
        """As [out, in]."""
        if self.use != "product":
            return self
        value = self.value
        return _Found(self.module, "turned", self.slot, self.shape[::-1], self.dtype,
                      lambda: value().T, self.held)  # fmt: skip


def _weights(file: OnnxFile, graph: Graph, wanted: Mapping[str, Expected]) -> dict[str, Any]:
    """Every tensor that the family has, by its `transformers` name."""
    prefix = _prefix(file, wanted)
    modules: dict[str, list[_Found]] = {}
    for item in _operands(file, graph):
        modules.setdefault(item.module.removeprefix(prefix), []).append(item)
    found: dict[str, Any] = {}
    missing = []
    for item in wanted.values():
        name = item.huggingface
        weight = _by_name(file, prefix + name) or _by_module(modules, name, item.file_shape)
        if weight is None:
            missing.append(name)
            continue
        row = TensorInfo(
            name,
            NAMES[weight.dtype],
            weight.shape,
            0,
            sum(info.nbytes for info in weight.held),
        )
        found[name] = (_Weight(weight.value, weight.held[0].kind.name), row)
    if missing:
        left = [name for name, info in file.tensors.items() if len(info.shape) > 1]
        raise TensorError(
            "onnx.missing_weight",
            f"{file.where}: neither names nor modules tell {len(missing)} of the {len(wanted)} "
            f"tensors that its config asks for: {few(missing)}; the graph's matrices are "
            f"{few(left)}",
            "is this the right config? An optimizer that fused nodes drops what tells them apart: "
            "export without one. PyTorch's older exporter folds `1 + weight` of a norm: use "
            "dynamo=True. bj.from_onnx(path) takes any graph",
            tensor=missing[0],
        )
    return found


def _prefix(file: OnnxFile, wanted: Mapping[str, Expected]) -> str:
    """What a wrapper put before every name (``model.``)."""
    for item in wanted.values():
        for name in file.tensors:
            if name == item.huggingface or name.endswith("." + item.huggingface):
                return name.removesuffix(item.huggingface)
    return ""


def _by_name(file: OnnxFile, name: str) -> _Found | None:
    info = file.tensors.get(name)
    if info is None or info.kind.numpy not in NAMES:
        return None
    return _Found("", "", 0, info.shape, info.kind.numpy, lambda: file.read(name), (info,))


def _by_module(
    modules: Mapping[str, list[_Found]], name: str, shape: tuple[int, ...]
) -> _Found | None:
    module, _, kind = name.rpartition(".")
    found = [
        item.matrix()
        for item in modules.get(module, ())
        if item.matrix().shape == shape and _fits(item, kind, len(shape))
    ]
    return found[0] if found else None


def _fits(item: _Found, kind: str, rank: int) -> bool:
    """Whether a module uses this operand as its ``weight`` or its ``bias``."""
    if rank > 1:
        return kind == "weight" and item.use in ("product", "turned", "Gather")
    if not item.root.endswith((".weight", ".bias")):
        # No parameter as it stood: an exporter may have added to it (Gemma multiplies by 1 + w).
        return False
    bias = item.use == "Add" or (item.use == "Gemm" and item.slot == 2) or item.slot == 2
    return bias if kind == "bias" else not bias


# ------------------------------------------------------------------------------ operands
def _operands(file: OnnxFile, graph: Graph) -> Iterator[_Found]:
    """Every operand of the graph that initializers alone make, with its module and use."""
    makers = {name: step for step in graph.steps for name in step.outputs}
    for step, node in zip(graph.steps, file.graph.node, strict=True):
        module = _module(node)
        if module is None:
            continue
        special = _SPECIAL.get(step.node.op)
        if special is not None:
            made = special(file, step)
            if made is not None:
                shape, value, held = made
                use = "product" if step.node.op == "MatMulInteger" else "turned"
                yield _Found(module, use, 1, shape, np.dtype(np.float32), value, held)
            continue
        for slot, name in enumerate(step.inputs):
            traced = _traced(file, makers, name)
            if traced is not None:
                shape, dtype, value, held = traced
                root = _same(makers, name)
                root = root if root in file.tensors else ""
                yield _Found(module, _use(step, slot), slot, shape, dtype, value, held, root)


def _use(step: Step, slot: int) -> str:
    if step.node.op == "MatMul" and slot == 1:
        return "product"
    if step.node.op == "Gemm" and slot == 1:
        return "turned" if step.node.get("transB", 0) else "product"
    return step.node.op


def _module(node: Any) -> str | None:
    """The dotted path of the module that a node was made of."""
    for row in node.metadata_props:
        if row.key == _SCOPES and len(row.value) < 1 << 14:
            try:
                scopes = ast.literal_eval(row.value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return None
            if isinstance(scopes, list) and len(scopes) > 1 and isinstance(scopes[-2], str):
                return scopes[-2]
            return None
    parts = node.name.strip("/").split("/")
    return ".".join(parts[:-1]) if len(parts) > 1 else None


def _same(makers: Mapping[str, Step], name: str) -> str:
    """The name of what a value is a copy of: equal tensors are kept once, and copied."""
    for _ in range(8):
        step = makers.get(name)
        if step is None or step.node.op != "Identity":
            break
        name = step.inputs[0]
    return name


Traced = tuple[tuple[int, ...], np.dtype, Callable[[], np.ndarray], tuple[OnnxTensor, ...]]


def _traced(file: OnnxFile, makers: Mapping[str, Step], name: str, depth: int = 0) -> Traced | None:
    """A value that is an initializer, seen through what turns, casts or dequantizes it."""
    info = file.tensors.get(name)
    if info is not None:
        return info.shape, info.kind.numpy, lambda: file.read(name), (info,)
    step = makers.get(name)
    if step is None or step.call is not None or depth > 8 or not step.inputs:
        return None
    if step.node.op not in ("Transpose", "Identity", "Cast", "DequantizeLinear"):
        return None
    inner = [_traced(file, makers, other, depth + 1) for other in step.inputs if other]
    if None in inner or step.run is None:
        return None
    parts = [part for part in inner if part is not None]
    shape, dtype, *_ = parts[0]
    held = tuple(info for part in parts for info in part[3])
    if step.node.op == "Transpose":
        order = step.node.get("perm") or list(reversed(range(len(shape))))
        shape = tuple(shape[axis] for axis in order)
    elif step.node.op == "DequantizeLinear":
        dtype = parts[1][1]
    elif step.node.op == "Cast":
        dtype = np.dtype(np.float32)
    run, node, wanted = step.run, step.node, dtype
    return (
        shape,
        dtype,
        lambda: np.asarray(run(node, *(p[2]() for p in parts))).astype(wanted),
        held,
    )


Special = tuple[tuple[int, ...], Callable[[], np.ndarray], tuple[OnnxTensor, ...]]


def _nbits(file: OnnxFile, step: Step) -> Special | None:
    names = [*step.inputs[1:], "", ""][:3]
    if any(name and name not in file.tensors for name in names) or len(step.inputs) > 4:
        return None
    shape = (step.node.need("N"), step.node.need("K"))

    def value() -> np.ndarray:
        read = [file.read(name) if name else None for name in names]
        return np.asarray(quantized.nbits_weight(step.node, *read))

    return shape, value, tuple(file.tensors[name] for name in names if name)


def _integer(file: OnnxFile, step: Step) -> Special | None:
    """ONNX Runtime's quantizer calls codes ``X_quantized``, and their scale ``X_scale``."""
    codes = step.inputs[1]
    scale = codes.removesuffix("_quantized") + "_scale"
    zero = step.inputs[3] if len(step.inputs) > 3 else ""
    if codes not in file.tensors or scale not in file.tensors:
        return None

    def value() -> np.ndarray:
        read = [file.read(name) for name in (codes, scale, zero) if name]
        return np.asarray(quantized.dequantize(step.node, *read))

    held = tuple(file.info(name) for name in (codes, scale, zero) if name in file.tensors)
    return file.info(codes).shape, value, held


_SPECIAL = {"MatMulNBits": _nbits, "MatMulInteger": _integer}
