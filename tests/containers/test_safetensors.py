"""Our reader and writer against the `safetensors` library, both ways."""

from __future__ import annotations

import io

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bitnet_jax.containers.dtypes import DTYPES
from bitnet_jax.containers.safetensors import open_safetensors
from bitnet_jax.containers.safetensors_write import (
    Planned,
    SafetensorsWriter,
    encode_header,
    planned,
    with_padding,
)
from bitnet_jax.core.errors import BadData, InternalError


def every_dtype() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"{prefix}.{name}": rng.integers(0, 2, shape).astype(dtype)
        for name, dtype in DTYPES.items()
        for prefix, shape in (("a", (3, 5)), ("b", ()), ("c", (0, 4)))
    }


def written(plan, tensors, metadata=None, align=8) -> bytes:
    """A whole file of planned tensors."""
    rows, offset = [], 0
    for tensor in with_padding(plan, align) if align > 8 else plan:
        rows.append((tensor, offset))
        offset += tensor.nbytes
    stream, metadata = io.BytesIO(), metadata or {}
    writer = SafetensorsWriter(stream, len(encode_header(rows, metadata)), align)
    for tensor in plan:
        writer.write(tensor, tensors[tensor.name])
    writer.finish(metadata)
    return stream.getvalue()


def write(tensors, metadata=None, align=8) -> bytes:
    """In the library's order: widest dtype first, then by name."""
    order = list(DTYPES)  # ascending by width, then as the library orders one width
    plan = [planned(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    plan.sort(key=lambda tensor: (-order.index(tensor.dtype), tensor.name))
    return written(plan, tensors, metadata, align)


def test_writes_the_bytes_that_the_library_writes():
    tensors = every_dtype()
    assert write(tensors, {"format": "pt"}) == safetensors.numpy.save(tensors, {"format": "pt"})


def test_reads_what_the_library_writes(tmp_path):
    tensors = every_dtype()
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(tensors, path, {"format": "pt", "k": "v"})
    file = open_safetensors(path)
    assert file.metadata == {"format": "pt", "k": "v"}
    assert file.tensors.keys() == tensors.keys()
    for name, wanted in tensors.items():
        found = file.read(name)
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
        assert found.size == 0 or found.ctypes.data % 64 == 0
        assert found.flags.writeable


def test_aligned_file_opens_in_the_library_and_starts_each_tensor_on_a_line(tmp_path):
    tensors = {"x": np.arange(5, dtype=np.uint8), "y": np.arange(3.0), "z": np.ones(7, "<f4")}
    path = tmp_path / "m.safetensors"
    path.write_bytes(write(tensors, align=64))
    file = open_safetensors(path)
    assert all(info.begin % 64 == 0 for name, info in file.tensors.items() if name in tensors)
    with safetensors.safe_open(path, "np") as real:
        assert {name for name in real.keys() if not name.startswith("__pad__")} == set(tensors)
        for name, wanted in tensors.items():
            np.testing.assert_array_equal(real.get_tensor(name), wanted)


def test_writes_a_transposed_view_in_its_own_order(tmp_path):
    # `safetensors.numpy.save_file` writes the bytes of the base array here.
    view = np.arange(6.0).reshape(2, 3).T
    path = tmp_path / "m.safetensors"
    path.write_bytes(write({"x": view}))
    np.testing.assert_array_equal(open_safetensors(path).read("x"), view)


def test_a_tensor_unlike_its_plan_is_our_bug():
    with pytest.raises(InternalError, match="planned as F32"):
        written([Planned("x", "F32", (2,))], {"x": np.zeros(3, "<f4")})


def test_reads_a_prefix(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(write({"x": np.arange(10, dtype="<f4")}))
    assert open_safetensors(path).read_prefix("x", 3).tolist() == [0, 1, 2]
    assert open_safetensors(path).read_prefix("x", 30).size == 10


def test_missing_tensor_names_the_nearest(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(write({"layers.0.q_proj": np.zeros(1)}))
    with pytest.raises(BadData, match="q_pro") as caught:
        open_safetensors(path).read("layers.0.q_prjo")
    assert "layers.0.q_proj" in caught.value.hint


def test_a_file_replaced_after_opening_reads_as_it_was(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(write({"x": np.zeros(4)}))
    file = open_safetensors(path)
    (tmp_path / "other").write_bytes(write({"x": np.ones(4)}))
    (tmp_path / "other").replace(path)
    assert file.read("x").sum() == 0


def test_a_file_truncated_after_opening_is_an_error_not_a_signal(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(write({"x": np.zeros(400)}))
    file = open_safetensors(path)
    with path.open("r+b") as stream:
        stream.truncate(500)
    with pytest.raises(BadData) as caught:
        file.read("x")
    assert caught.value.code == "file.truncated"


def test_half_a_surrogate_pair_in_the_metadata_is_refused_as_by_the_library(tmp_path):
    data = write({"a": np.zeros(2, np.float32)}, {"format": "pqrstu"})
    data = data.replace(b"pqrstu", b"\\ud800")
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(data)
    with pytest.raises(BadData, match="surrogate") as caught:
        open_safetensors(path)
    assert caught.value.code == "safetensors.metadata"
