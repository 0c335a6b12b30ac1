"""Hostile ONNX files that have a name: where data is said to lie, shapes, graphs, versions."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from bitnet_jax.containers import onnx_external, onnx_file
from bitnet_jax.containers.onnx_file import open_onnx
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.onnx_function import from_onnx
from tests.hostile.onnx_samples import external, graph


def model(*tensors, nodes=None, opset=21, ir_version=10) -> onnx.ModelProto:
    """A model whose graph is one Identity, or `nodes`."""
    nodes = nodes or [h.make_node("Identity", ["x"], ["y"])]
    made = h.make_graph(
        nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, [1])],
        [h.make_tensor_value_info("y", T.FLOAT, None)], list(tensors),
    )  # fmt: skip
    return h.make_model(made, opset_imports=[h.make_opsetid("", opset)], ir_version=ir_version)


def placed(location="m.onnx.data", offset=0, length=8, **more):
    proto = T(name="w", data_type=T.FLOAT, dims=[2], data_location=T.EXTERNAL)
    rows = {"location": location, "offset": offset, "length": length, **more}
    for key, value in rows.items():
        if value is not None:
            proto.external_data.add(key=key, value=str(value))
    return proto


def twice():
    proto = placed()
    proto.external_data.add(key="offset", value="4")
    return proto


def shaped(dims, kind=T.FLOAT, data=b"", **fields):
    return T(name="w", data_type=kind, dims=dims, raw_data=data, **fields)


def _segment():
    proto = shaped([1], data=b"\0" * 4)
    proto.segment.begin = 0
    return proto


def _recursive():
    made = model(nodes=[h.make_node("F", ["x"], ["y"], domain="d")])
    made.opset_import.append(h.make_opsetid("d", 1))
    body = [h.make_node("F", ["p"], ["q"], domain="d")]
    made.functions.append(h.make_function("d", "F", ["p"], ["q"], body, [h.make_opsetid("d", 1)]))
    return made


def _bomb():
    """Each function calls the one before it ten times: 10^20 nodes in a few KB."""
    made = model(nodes=[h.make_node("F20", ["x"], ["y"], domain="d")])
    made.opset_import.append(h.make_opsetid("d", 1))
    opsets = [h.make_opsetid("d", 1), h.make_opsetid("", 21)]
    for number in range(21):
        name, domain = ("Neg", "") if not number else (f"F{number - 1}", "d")
        body = [h.make_node(name, [f"v{i}"], [f"v{i + 1}"], domain=domain) for i in range(10)]
        made.functions.append(h.make_function("d", f"F{number}", ["v0"], ["v10"], body, opsets))
    return made


def _no_graph():
    return onnx.ModelProto(ir_version=10, producer_name="x", opset_import=[h.make_opsetid("", 21)])


I = lambda *a, **k: h.make_node("Identity", *a, **k)
FILES = {
    # -------------------------------------------------------------- where data is said to lie
    "data in the folder above": (model(placed("../m.onnx.data")), "onnx.external_path"),
    "data above, in the middle": (model(placed("a/../../x")), "onnx.external_path"),
    "data in /etc": (model(placed("/etc/hostname")), "onnx.external_path"),
    "data in /dev/zero": (model(placed("/dev/zero")), "onnx.external_path"),
    "data on a drive": (model(placed("C:\\x")), "onnx.external_path"),
    "data behind a backslash": (model(placed("..\\x")), "onnx.external_path"),
    "data at an address": (model(placed("http://example.org/x")), "onnx.external_path"),
    "data with a NUL in its path": (model(placed("m.onnx.data\0x")), "onnx.external_path"),
    "a path without end": (model(placed("a/" * 5000 + "x")), "onnx.external_path"),
    "no location": (model(placed(None)), "onnx.external_span"),
    "an unknown key": (model(placed(compression="zip")), "onnx.external_span"),
    "a key that stands twice": (model(twice()), "onnx.tensor"),
    "data that is missing": (model(placed("gone")), "onnx.external_missing"),
    "data in a folder that is a file": (model(placed("m.onnx.data/x")), "onnx.external_file"),
    "data that is the folder": (model(placed(".")), "onnx.external_file"),
    "an offset beyond the end": (model(placed(offset=9)), "onnx.external_span"),
    "an offset that overflows": (model(placed(offset=(1 << 63) - 1)), "onnx.external_span"),
    "a negative offset": (model(placed(offset=-4)), "onnx.external_span"),
    "an offset that is a word": (model(placed(offset="0x4")), "onnx.external_span"),
    "a length beyond the end": (model(placed(length=17)), "onnx.external_span"),
    "a length that is too short": (model(placed(length=4)), "onnx.external_span"),
    "a length of 40 digits": (model(placed(length="9" * 40)), "onnx.external_span"),
    "data of a branch in /etc": (
        model(
            nodes=[
                h.make_node("Constant", [], ["c"], value=placed("/etc/hostname")),
                I(["c"], ["y"]),
            ]
        ),
        "onnx.external_path",
    ),
    # ----------------------------------------------------------------------------- tensors
    "a shape that overflows": (model(shaped([1 << 40, 1 << 40])), "onnx.tensor"),
    "a shape of zeros that overflows": (model(shaped([0, 1 << 62, 1 << 62])), "onnx.tensor"),
    "a negative size": (model(shaped([-1])), "onnx.tensor"),
    "a thousand axes": (model(shaped([1] * 1000, data=b"\0" * 4)), "onnx.tensor"),
    "fewer bytes than the shape": (model(shaped([2], data=b"\0" * 4)), "onnx.tensor"),
    "more bytes than the shape": (model(shaped([1], data=b"\0" * 8)), "onnx.tensor"),
    "INT4 of half a byte too much": (model(shaped([3], T.INT4, b"\0\0\0")), "onnx.tensor"),
    "INT2 of a byte too few": (model(shaped([5], T.INT2, b"\0")), "onnx.tensor"),
    "a terabyte of nothing": (model(shaped([1 << 38])), "onnx.tensor"),
    "an unknown type": (model(shaped([1], 99, b"\0")), "onnx.dtype"),
    "strings": (model(T(name="w", data_type=8, dims=[1], string_data=[b"x"])), "onnx.dtype"),
    "a segment": (model(_segment()), "onnx.tensor"),
    "another place for data": (model(shaped([0], data_location=1)), "onnx.external_span"),
    "a number that is no INT8": (
        model(T(name="w", data_type=T.INT8, dims=[1], int32_data=[300])), "onnx.tensor"),
    # ------------------------------------------------------------------------------ graphs
    "a cycle": (model(nodes=[I(["b"], ["a"]), I(["a"], ["b"]), I(["x"], ["y"])]), "onnx.graph"),
    "a node of itself": (model(nodes=[I(["y"], ["y"])]), "onnx.graph"),
    "a value that nothing makes": (model(nodes=[I(["z"], ["y"])]), "onnx.graph"),
    "an output that nothing makes": (model(nodes=[I(["x"], ["z"])]), "onnx.graph"),
    "a value made twice": (model(nodes=[I(["x"], ["y"]), I(["x"], ["y"])]), "onnx.graph"),
    "an input made again": (model(nodes=[I(["x"], ["x"])]), "onnx.graph"),
    "two tensors of one name": (model(shaped([0]), shaped([0])), "onnx.graph"),
    "a function of itself": (_recursive(), "onnx.graph"),
    "functions that explode": (_bomb(), "onnx.limits"),
    "a name without end": (model(nodes=[I(["x"], ["a" * 9999]), I(["x"], ["y"])]), "onnx.limits"),
    # ---------------------------------------------------------------------------- versions
    "an opset of the future": (model(opset=9999), "onnx.version"),
    "opset 0": (model(opset=0), "onnx.version"),
    "an IR version of the future": (model(ir_version=99), "onnx.version"),
    "no graph": (_no_graph(), "file.wrong_kind"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "m.onnx.data").write_bytes(b"\0" * 16)
    (tmp_path / "m.onnx.data").write_bytes(b"\0" * 16)
    return tmp_path / "m"


@pytest.fixture
def unread(monkeypatch):
    """What is refused is refused before a byte of data is read, or its file opened."""

    def read(self, span):
        raise AssertionError("data was read")

    monkeypatch.setattr(onnx_external.Places, "read", read)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_before_any_data_is_read(name, folder, unread):
    made, code = FILES[name]
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(BadData) as caught:
        file = open_onnx(path)
        file.read("w")
    assert caught.value.code.startswith(code)
    assert len(caught.value.message) < 2000


def _symbolic(folder, data):
    data.rename(folder / "real")
    data.symlink_to("real")


def _symbolic_folder(folder, data):
    (folder / "real").mkdir()
    data.rename(folder / "real" / "d")
    (folder / "sub").symlink_to("real")


def _hard(folder, data):
    os.link(data, folder / "other")


def _fifo(folder, data):
    data.unlink()
    os.mkfifo(data)


def _device(folder, data):
    data.unlink()
    data.symlink_to("/dev/zero")


LINKS = {
    "a symbolic link": (_symbolic, "m.onnx.data", "onnx.external_link"),
    "a folder that is a link": (_symbolic_folder, "sub/d", "onnx.external_link"),
    "one of two hard links": (_hard, "m.onnx.data", "onnx.external_link"),
    "a FIFO, which would wait for ever": (_fifo, "m.onnx.data", "onnx.external_file"),
    "a link to /dev/zero": (_device, "m.onnx.data", "onnx.external_link"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", LINKS)
def test_a_link_or_a_pipe_in_place_of_the_data_is_refused(name, folder, unread):
    make, location, code = LINKS[name]
    make(folder, folder / "m.onnx.data")
    path = folder / "m.onnx"
    path.write_bytes(model(placed(location)).SerializeToString())
    with pytest.raises(BadData) as caught:
        open_onnx(path)
    assert caught.value.code == code


def _cache(folder, model, data):
    """A folder of links to contents by their hashes, as the hub's cache has it."""
    blobs, files = folder / "blobs", folder / "snapshots" / "c"
    blobs.mkdir()
    files.mkdir(parents=True)
    for name, blob in (("m.onnx", "a" * 64), ("m.onnx.data", "b" * 64)):
        (files / name).symlink_to(f"../../blobs/{blob}")
    (blobs / ("a" * 64)).write_bytes(model.SerializeToString())
    (blobs / ("b" * 64)).write_bytes(data)
    return files


def test_in_a_cache_of_downloads_links_to_contents_are_read(tmp_path):
    values = np.arange(2, dtype=np.float32)
    files = _cache(tmp_path, model(placed("m.onnx.data")), values.tobytes())
    np.testing.assert_array_equal(open_onnx(files / "m.onnx").read("w"), values)


@pytest.mark.parametrize("target", ["../../secret", "../../blobs/../secret", "../../blobs/notes",
                                    "../../other/blobs/" + "b" * 64])  # fmt: skip
def test_in_a_cache_of_downloads_other_links_are_refused(target, tmp_path, unread):
    files = _cache(tmp_path, model(placed("m.onnx.data")), bytes(16))
    for name in ("secret", "blobs/notes", "other/blobs/" + "b" * 64):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(16))
    (files / "m.onnx.data").unlink()
    (files / "m.onnx.data").symlink_to(target)
    with pytest.raises(BadData) as caught:
        open_onnx(files / "m.onnx")
    assert caught.value.code == "onnx.external_link"


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "file.empty"), (b"\x08", "onnx.protobuf"), (b"\0" * 99, "file.")]
)
def test_what_is_no_model_is_told(data, code, folder):
    path = folder / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(BadData) as caught:
        open_onnx(path)
    assert caught.value.code.startswith(code)


def test_a_model_cut_short_anywhere_is_refused(folder):
    whole = model(shaped([4], data=b"\0" * 16)).SerializeToString()
    path = folder / "m.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadData):
            file = open_onnx(path)
            file.read("w")
            assert not file.opsets  # the opset stands last: without it nothing is read


def test_a_file_larger_than_a_protobuf_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_PROTOBUF", 100)
    path = folder / "m.onnx"
    path.write_bytes(model(shaped([40], data=b"\0" * 160)).SerializeToString())
    with pytest.raises(BadData) as caught:
        open_onnx(path)
    assert caught.value.code == "onnx.limits"


def test_a_data_file_that_shrinks_after_it_was_checked_is_told(folder):
    path = folder / "m.onnx"
    path.write_bytes(model(placed()).SerializeToString())
    file = open_onnx(path)
    (folder / "m.onnx.data").write_bytes(b"\0" * 4)
    with pytest.raises(BadData) as caught:
        file.read("w")
    assert caught.value.code == "file.truncated"


def test_every_type_is_read_as_the_package_onnx_reads_it(tmp_path):
    from bitnet_jax.containers.onnx_types import TYPES

    rng, made = np.random.default_rng(0), []
    for kind, row in TYPES.items():
        shape = (5,) if row.bits < 8 else (2, 3)
        size = -(-int(np.prod(shape)) * row.bits // 8)
        raw = rng.integers(0, 2, size).astype("u1") if row.name == "BOOL" else (
            rng.integers(0, 255, size).astype("u1"))  # fmt: skip
        made.append(T(name=row.name, data_type=kind, dims=shape, raw_data=raw.tobytes()))
    path = tmp_path / "m.onnx"
    path.write_bytes(model(*made).SerializeToString())
    file = open_onnx(path)
    for proto in made:
        wanted, found = onnx.numpy_helper.to_array(proto), file.read(proto.name)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert found.tobytes() == wanted.tobytes(), proto.name


def test_a_good_graph_with_all_of_it_runs(tmp_path):
    from tests.hostile.onnx_samples import tensors

    kept, data = tensors()
    (tmp_path / "m.onnx").write_bytes(graph(kept).SerializeToString())
    (tmp_path / "m.onnx.data").write_bytes(data)
    fn, params = from_onnx(tmp_path / "m.onnx")
    x = np.ones((2, 4), np.float32)
    wanted = -2 * (x @ np.asarray(params["w"]) + np.asarray(params["b"]))
    np.testing.assert_allclose(fn(params, x), wanted, rtol=1e-6)
    assert external("w", T.FLOAT, [1], 0, 4).external_data[0].value == "m.onnx.data"
