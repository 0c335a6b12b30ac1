"""ONNX models to damage, and how: in their bytes, and in the fields of the protobuf itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto as T
from onnx import helper as h

from tests.hostile import mutate
from tests.hostile.mutate import Choices, Sample


def _files(model: onnx.ModelProto, data: bytes | None = None) -> Sample:
    found = {"m.onnx": model.SerializeToString(deterministic=True)}
    return found if data is None else found | {"m.onnx.data": data}


def external(name: str, kind: int, shape: list[int], offset: int, length: int) -> T:
    """A tensor whose data lies in `m.onnx.data`."""
    proto = T(name=name, data_type=kind, dims=shape, data_location=T.EXTERNAL)
    for key, value in (("location", "m.onnx.data"), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def graph(tensors: list[T], extra: tuple[Any, ...] = ()) -> onnx.ModelProto:
    """A small graph with one tensor of each kind, a branch and a function."""
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["a"], "first"),
        h.make_node("Add", ["a", "b"], ["c"]),
        h.make_node("If", ["yes"], ["d"], then_branch=_branch("Neg"), else_branch=_branch("Exp")),
        h.make_node("Twice", ["d"], ["y"], domain="local"),
        *extra,
    ]
    twice = h.make_function(
        "local", "Twice", ["p"], ["q"], [h.make_node("Add", ["p", "p"], ["q"])],
        [h.make_opsetid("", 21)],
    )  # fmt: skip
    made = h.make_graph(
        nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, ["n", 4])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n", 3])], tensors,
    )  # fmt: skip
    opsets = [h.make_opsetid("", 21), h.make_opsetid("local", 1)]
    return h.make_model(made, opset_imports=opsets, ir_version=10, functions=[twice])


def _branch(op: str) -> Any:
    out = h.make_tensor_value_info("out", T.FLOAT, None)
    return h.make_graph([h.make_node(op, ["c"], ["out"])], op, [], [out])


def tensors() -> tuple[list[T], bytes]:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3)).astype("<f4")
    kept = [
        external("w", T.FLOAT, [4, 3], 64, 48),
        onnx.numpy_helper.from_array(rng.standard_normal(3).astype("f4"), "b"),
        h.make_tensor("yes", T.BOOL, [], [1]),
        h.make_tensor("four", T.INT4, [5], [1, -2, 3, 7, -8]),
        h.make_tensor("half", T.BFLOAT16, [3], [0.5, 1.5, -2.0]),
        external("two", T.INT2, [7], 0, 2),
        onnx.numpy_helper.from_array(np.arange(6, dtype="i8").reshape(2, 3), "whole"),
        onnx.numpy_helper.from_array(np.zeros((0, 3), "f4"), "empty"),
    ]
    return kept, b"\xe4\x1b" + b"\0" * 62 + w.tobytes()


@cache
def foreign() -> Mapping[str, Sample]:
    kept, data = tensors()
    inline = [onnx.numpy_helper.from_array(np.ones((4, 3), "f4"), "w"), *kept[1:5]]
    return {"data beside": _files(graph(kept), data), "data inside": _files(graph(inline))}


@cache
def ours() -> Mapping[str, Sample]:
    """Files of our own format, by hand."""
    from tests.formats import onnx_files
    from tests.formats.test_onnx import model

    found = {}
    for storage in ("int8", "int2"):
        with tempfile.TemporaryDirectory() as folder:
            path = onnx_files.write(model(tokenizer=False), Path(folder) / "m.onnx", storage)
            found[storage] = {item.name: item.read_bytes() for item in path.parent.iterdir()}
    return found


# ---------------------------------------------------------------------------- readings
def _value(array: np.ndarray) -> Any:
    return str(array.dtype), array.shape, array.tobytes()


def read_foreign(path: Path) -> Mapping[str, Any]:
    """Every tensor, and that the graph can be made a function."""
    from bitnet_jax.containers.onnx_file import open_onnx
    from bitnet_jax.formats.onnx_function import from_onnx

    file = open_onnx(path)
    found = {name: _value(file.read(name)) for name in file.tensors}
    from_onnx(path)
    return found


def library(sample: Sample) -> Mapping[str, Any] | None:
    """The tensors as the package `onnx` reads them; None where it does not."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in sample.items():
            (Path(folder) / name).write_bytes(data)
        try:
            model = onnx.ModelProto.FromString((Path(folder) / "m.onnx").read_bytes())
            return {
                item.name: _value(onnx.numpy_helper.to_array(item, folder))
                for item in model.graph.initializer
            }
        except (DecodeError, ValueError, TypeError, OSError, RuntimeError, KeyError,
                onnx.checker.ValidationError):  # fmt: skip
            return None


def as_the_library(ours: Mapping[str, Any], sample: Sample, good: Any) -> str | None:
    theirs = library(sample)
    if theirs is None:
        return "the package onnx reads it not at all"
    odd = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return f"the package onnx reads something else: {odd}" if odd else None


# ------------------------------------------------------------------------------ damage
_NUMBERS = (0, 1, -1, 2, 7, 63, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 62), -(1 << 40))
_WORDS = ("", "x", "w", "y", "..", "../m.onnx.data", "/etc/hostname", "m.onnx", "\0", "0", "-1",
          "9" * 30, "a" * 5000, "offset", "location")  # fmt: skip


def fields(choose: Choices, data: bytes) -> bytes:
    """One field of the protobuf, at any depth, set to what nobody expects."""
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return mutate.flip_bits(choose, data)
    _change(choose, model, 0)
    try:
        return model.SerializeToString()
    except (EncodeError, ValueError):
        return mutate.flip_bits(choose, data)


def _change(choose: Choices, message: Any, depth: int) -> None:
    held = message.ListFields()
    if not held:
        return
    field, value = choose.one_of(held)
    several = hasattr(value, "__len__") and not isinstance(value, str | bytes)
    if several and not len(value):
        return
    if field.message_type is not None:
        inner = choose.one_of(list(value)) if several else value
        move = choose.whole(0, 9) if several else 9
        if move == 0:
            value.append(inner)
        elif move == 1:
            del value[choose.whole(0, len(value) - 1)]
        elif depth < 12:
            _change(choose, inner, depth + 1)
        return
    maker = _MAKERS.get(field.cpp_type, lambda c, v: v)
    try:
        if several:
            value[choose.whole(0, len(value) - 1)] = maker(choose, value[0])
        else:
            setattr(message, field.name, maker(choose, value))
    except (ValueError, TypeError):  # no number that the field takes
        message.ClearField(field.name)


def _word(choose: Choices, value: Any) -> Any:
    if isinstance(value, bytes):
        return mutate.flip_bits(choose, value) if value else b"x"
    return choose.one_of(_WORDS)


# FieldDescriptor.CPPTYPE_* -> another value
_MAKERS: Mapping[int, Callable[[Choices, Any], Any]] = {
    1: lambda choose, value: choose.one_of(_NUMBERS),
    2: lambda choose, value: choose.one_of(_NUMBERS),
    3: lambda choose, value: choose.one_of(_NUMBERS),
    4: lambda choose, value: choose.one_of(_NUMBERS),
    5: lambda choose, value: float(choose.one_of(_NUMBERS)),
    6: lambda choose, value: float(choose.one_of(_NUMBERS)),
    8: lambda choose, value: choose.whole(0, 40),
    9: _word,
}
