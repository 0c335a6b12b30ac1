"""What the graph of a decoder computes by itself: its logits, node by node.

A decoder of another exporter is read by names and a config; this runs the graph between its
weights, so that the two can be compared. It computes in float32 and rounds nothing: half floats are
widened, and what the graph makes codes of while it runs stays as it was. What differs then is wired
otherwise.

Weights are read where a node asks for them and let go after the last that does. Knows no family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bitnet_jax.containers.onnx_file import OnnxFile
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import OwnProgram
from bitnet_jax.formats.onnx_function import OnnxInput, inputs_of, is_parameter, whole
from bitnet_jax.formats.onnx_ops.products import matmul
from bitnet_jax.formats.onnx_ops.quantized import along, centred, ratio
from bitnet_jax.formats.onnx_ops.table import Node, as_jax
from bitnet_jax.formats.onnx_walk import Graph, Step, known_names, run_step

# Half floats, and by how much of a number they round it.
_HALVES = {np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}
# TensorProto.DataType of these, and of what they become.
_HALF_TYPES, _FLOAT = (10, 16), 1
# Operators that round in one piece with what they compute.
_ROUNDS = re.compile(r"Q(Linear.*|Gemm|Attention)|ConvInteger|DynamicQuantize(MatMul|LSTM)|"
                     r"MatMulIntegerToFloat")  # fmt: skip
_TOKENS = ("input_ids", "tokens")


def own_program(file: OnnxFile, graph: Graph, vocab: int) -> OwnProgram:
    """The graph as a function of tokens.

    Args:
      vocab: the width of its logits, which tell them from its other results.
    """
    inputs = inputs_of(file)
    tokens = _tokens(inputs)
    sizes = (None, None) if tokens is None or tokens.shape is None else tokens.shape
    batch, length = (size if isinstance(size, int) else None for size in sizes)

    def logits(ids: np.ndarray) -> np.ndarray:
        if tokens is None:
            raise _unproven(file, "has no input of token ids")
        return _run(file, _unrounded(graph), _fed(file, inputs, tokens, ids), (*ids.shape, vocab))

    return OwnProgram(batch, length, _coarsest(file), logits)


def _coarsest(file: OnnxFile) -> float:
    """How far the constants of the graph (an epsilon, rotary frequencies) are rounded."""
    kinds = {tensor.kind.numpy for tensor in file.tensors.values()}
    return max((step for kind, step in _HALVES.items() if kind in kinds), default=0.0)


def _unproven(file: OnnxFile, what: str) -> BadData:
    return BadData(
        "onnx.wiring", f"{file.where} {what}", "compare what it computes with its own runtime"
    )


# ------------------------------------------------------------------------------- inputs
def _tokens(inputs: list[OnnxInput]) -> OnnxInput | None:
    whole_numbers = [
        item
        for item in inputs
        if item.dtype.kind == "i" and item.shape is not None and len(item.shape) == 2
    ]
    named = [item for item in whole_numbers if item.name in _TOKENS]
    found = named or whole_numbers
    return found[0] if named or len(found) == 1 else None


@dataclass(frozen=True)
class _Feed:
    """What is known where an input's value is made: the tokens, and what stands in the past."""

    ids: np.ndarray
    past: int


def _whole(make: Callable[[_Feed], np.ndarray]) -> Callable[[OnnxInput, _Feed], Any]:
    return lambda item, feed: as_jax(make(feed).astype(item.dtype))


def _positions(feed: _Feed) -> np.ndarray:
    return np.broadcast_to(np.arange(feed.ids.shape[1]), feed.ids.shape)


def _mask(feed: _Feed) -> np.ndarray:
    hidden = np.zeros((len(feed.ids), feed.past))
    return np.concatenate([hidden, np.ones(feed.ids.shape)], 1)


def _past(item: OnnxInput, feed: _Feed) -> Any:
    shape = item.shape or ()
    sizes = [size if isinstance(size, int) else 0 for size in shape]
    sizes[0] = len(feed.ids)
    return as_jax(np.zeros(sizes, np.float32))


# An input's name -> its value. Numbers that are no arrays are known while the graph is walked.
_FEEDS: tuple[tuple[str, Callable[[OnnxInput, _Feed], Any]], ...] = (
    (r"attention_mask", _whole(_mask)),
    (r"position_ids", _whole(_positions)),
    (r"token_type_ids", _whole(lambda feed: np.zeros(feed.ids.shape))),
    (r"cache_position", _whole(lambda feed: _positions(feed)[0] + feed.past)),
    (r"past.*", _past),
    (r"use_cache_branch", lambda item, feed: np.zeros((1,), bool)),
    (r"(num_)?logits_to_keep", lambda item, feed: np.zeros((), np.int64)),
)


def _fed(
    file: OnnxFile, inputs: list[OnnxInput], tokens: OnnxInput, ids: np.ndarray
) -> dict[str, Any]:
    """A value for each input: these tokens, nothing before them."""
    found: dict[str, Any] = {tokens.name: as_jax(ids.astype(tokens.dtype))}
    entries = [
        size
        for item in inputs
        if item.name.startswith("past") and item.shape is not None and len(item.shape) == 4
        for size in item.shape[2:3]
    ]
    past = max((size for size in entries if isinstance(size, int)), default=0)
    if past and "attention_mask" not in [item.name for item in inputs]:
        raise _unproven(file, f"has a cache of {past} entries always, and no mask to hide them")
    for item in inputs:
        if item.name in found:
            continue
        make = next((row for name, row in _FEEDS if re.fullmatch(name, item.name)), None)
        if make is None:
            raise _unproven(
                file, f"has the input `{item.name[:120]}`, which is none of a decoder's"
            )
        found[item.name] = make(item, _Feed(ids, past))
    return found


# ------------------------------------------------------------------------------- running
class _Values(dict[str, Any]):
    """Values by name; an initializer is read each time that it is asked for, and not kept."""

    def __init__(self, file: OnnxFile, fixed: set[str], given: Mapping[str, Any]):
        super().__init__(given)
        self._file, self._fixed = file, fixed

    def __missing__(self, name: str) -> Any:
        if name not in self._file.tensors:
            raise KeyError(name)
        tensor = self._file.info(name)
        value = _wide(self._file.read(tensor))
        known = name in self._fixed or not is_parameter(tensor)
        return value if known else jnp.asarray(whole(value))


def _run(
    file: OnnxFile, graph: Graph, given: Mapping[str, Any], shape: tuple[int, ...]
) -> np.ndarray:
    values = _Values(file, known_names(graph), given)
    last: dict[str, int] = {}
    for index, step in enumerate(graph.steps):
        last.update(dict.fromkeys((*_reads(step), *step.outputs), index))
    last.update(dict.fromkeys(graph.outputs, len(graph.steps)))
    gone: dict[int, list[str]] = {}
    for name, index in last.items():
        gone.setdefault(index, []).append(name)
    for index, step in enumerate(graph.steps):
        run_step(step, values)
        for name in gone.get(index, ()):
            values.pop(name, None)
    for name in sorted(graph.outputs, key=lambda name: name != "logits"):
        found = values[name]
        if getattr(found, "shape", None) == shape:
            return np.asarray(found, np.float32)
    raise _unproven(file, f"has no result of shape {list(shape)}, as logits have")


def _reads(step: Step) -> Iterator[str]:
    """The names that a step asks for, inside of its branches and bodies too."""
    yield from step.inputs
    for graph in step.graphs.values():
        yield from graph.outputs
        for inner in graph.steps:
            yield from _reads(inner)


# ----------------------------------------------------------------------- nothing is rounded
def _wide(value: Any) -> Any:
    halves = isinstance(value, np.ndarray) and value.dtype in _HALVES
    return value.astype(np.float32) if halves else value


def _unrounded(graph: Graph) -> Graph:
    return replace(
        graph,
        steps=tuple(map(_unrounded_step, graph.steps)),
        constants={name: _wide(value) for name, value in graph.constants.items()},
    )


def _unrounded_step(step: Step) -> Step:
    node = step.node
    graphs = {name: _unrounded(graph) for name, graph in step.graphs.items()}
    if step.call is not None:
        return replace(step, call=_unrounded(step.call), graphs=graphs)
    attributes = {name: _wide(value) for name, value in node.attributes.items()}
    if node.op == "Cast" and attributes.get("to") in _HALF_TYPES:
        attributes["to"] = _FLOAT
    run = _PLAIN.get(node.op, _refuse if _ROUNDS.fullmatch(node.op) else step.run)
    return replace(step, node=replace(node, attributes=attributes), run=run, graphs=graphs)


def _refuse(node: Node, *values: Any) -> Any:
    raise node.unsupported("computing without its rounding")


def _dynamic(node: Node, x: Any) -> Any:
    return x, jnp.float32(1), jnp.uint8(0)


def _quantize(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    return ratio(x, along(node, scale, x))


def _product(node: Node, x: Any, y: Any, x_zero: Any = None, y_zero: Any = None) -> Any:
    return matmul(_codes(x, x_zero, -2), _codes(y, y_zero, -1))


def _codes(x: Any, zero: Any, per: int) -> Any:
    """Codes less their zero point; of what was never made codes, nothing is taken off."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        return centred(x, zero, per).astype(jnp.float32)
    return x


_PLAIN: dict[str, Callable[..., Any]] = {
    "DynamicQuantizeLinear": _dynamic,
    "QuantizeLinear": _quantize,
    "MatMulInteger": _product,
}
