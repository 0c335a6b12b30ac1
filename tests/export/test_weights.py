"""What stands in a file of ours, read by the page of the format alone."""

import dataclasses
import json
import re

import ml_dtypes
import numpy as np
import onnx
import pytest

from bitnet_jax.export.model import describe, write_model
from bitnet_jax.export.profiles import PROFILES
from bitnet_jax.export.reopen import reopen
from tests.export.models import small_checkpoint


@pytest.fixture
def by_hand(repo):
    """The function `digests` of docs/formats/onnx.md."""
    page = (repo / "docs/formats/onnx.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(code, "onnx.md", "exec"), names)
    return names["digests"]


SIZES = {"tensor": {"intermediate_size": 147}, "row": {}, "group-32": {}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By kind of scale; the inputs of one are no multiple of a block, nor of a byte."""
    folder = tmp_path_factory.mktemp("model")
    more = {"dtype": ml_dtypes.bfloat16, "num_layers": 1}
    return {
        scale: small_checkpoint(folder, scale, **more, **sizes) for scale, sizes in SIZES.items()
    }


@pytest.fixture
def checkpoint(models):
    return models["tensor"]


@pytest.mark.parametrize(
    ("scale", "profile"),
    [
        *(("tensor", profile) for profile in PROFILES),
        ("row", "portable"),
        ("group-32", "size"),
        ("group-32", "inference"),
    ],
)
def test_digests_by_twenty_lines_of_numpy_are_those_of_the_checkpoint(
    tmp_path, models, by_hand, scale, profile
):
    checkpoint = models[scale]
    path = tmp_path / "m.onnx"
    write_model(checkpoint, describe(checkpoint), PROFILES[profile], path)
    onnx.checker.check_model(str(path), full_check=True)
    want = checkpoint.digest()
    assert by_hand(str(path)) == want.to_json()
    assert reopen(path).digest() == want
    properties = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    assert json.loads(properties["bitnet.digests"]) == want.to_json()
    assert json.loads(properties["bitnet.spec"]) == checkpoint.spec.to_json()
    rows = json.loads(properties["bitnet.rows"])
    assert set(rows) == set(checkpoint.entries)
    stored = {row["storage"] for row in rows.values() if "kind" in row}
    assert stored == {{"size": "int2", "inference": "nbits2"}.get(profile, "int8")}
    floats = {row["storage"] for row in rows.values() if "kind" not in row}
    assert floats == {"float32" if profile == "accuracy" else "bfloat16"}


def test_the_same_model_gives_the_same_bytes(tmp_path, checkpoint):
    files = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_model(checkpoint, describe(checkpoint), PROFILES["size"], folder / "m.onnx")
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert files[0] == files[1]


def test_checksums_are_those_of_the_data(tmp_path, checkpoint):
    import xxhash

    path = tmp_path / "m.onnx"
    write_model(checkpoint, describe(checkpoint), PROFILES["portable"], path)
    again = reopen(path)
    for name, stated in json.loads(again.file.metadata["bitnet.checksums"]).items():
        assert xxhash.xxh3_64_hexdigest(again.file.read_bytes(name).data) == stated


def test_no_more_than_one_tensor_is_held(tmp_path, checkpoint, monkeypatch):
    """A tensor is written before the next is read."""
    from bitnet_jax.containers.onnx_write import DataWriter

    happened = []
    add = DataWriter.add

    def told(self, name, *rest):
        happened.append(("write", name))
        return add(self, name, *rest)

    monkeypatch.setattr(DataWriter, "add", told)
    described = describe(checkpoint)

    def watched(name, read):
        def told():
            happened.append(("read", name))
            return read()

        return told

    entries = {
        name: dataclasses.replace(entry, read=watched(name, entry.read))
        for name, entry in checkpoint.entries.items()
    }
    watching = dataclasses.replace(checkpoint, entries=entries)
    write_model(watching, described, PROFILES["portable"], tmp_path / "m.onnx")
    reads = [index for index, (what, _) in enumerate(happened) if what == "read"]
    assert len(reads) == len(checkpoint.entries)
    for index in reads:
        name = happened[index][1]
        assert happened[index + 1][1].startswith(name)
    assert np.all(np.diff(reads) >= 2)
