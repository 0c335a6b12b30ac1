"""What `create` does with the receipt of what it replaces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitnet_jax.core.errors import CannotCreate, Unavailable, UsageError
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import FORMATS
from bitnet_jax.workflows.convert import convert
from bitnet_jax.workflows.create import create

RECEIPT = Path("m.receipt.json")


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """A tiny model `m.hf`, `m.bitnet` made of it, and the receipt of that."""
    monkeypatch.chdir(tmp_path)
    create(shape="tiny", layers=1, output="m.hf")
    return convert("m.hf", "m.bitnet", probe=False)


def test_a_created_model_has_no_receipt_of_the_one_it_replaced(made):
    create(shape="tiny", layers=1, output="m.bitnet", seed=5, force=True)
    assert open_checkpoint("m.bitnet").digest().to_json() != made["digest_after"]
    assert not RECEIPT.exists()


def test_nor_has_a_created_folder():
    convert("m.bitnet", "again.hf", probe=False)
    assert Path("again.hf/receipt.json").exists()
    create(shape="tiny", layers=1, output="again.hf", seed=5, force=True)
    assert not Path("again.hf/receipt.json").exists()


def test_a_receipt_is_not_replaced_without_force():
    before = RECEIPT.read_bytes()
    with pytest.raises(CannotCreate, match="m.bitnet") as caught:
        create(shape="tiny", layers=1, output="m.bitnet")
    assert caught.value.code == "io.exists" and RECEIPT.read_bytes() == before
    assert Path("m.bitnet").exists()


def test_a_receipt_whose_file_is_gone_stands_in_nobodys_way():
    Path("m.bitnet").unlink()
    create(shape="tiny", layers=1, output="m.bitnet", seed=5)
    assert Path("m.bitnet").exists() and not RECEIPT.exists()


def test_a_create_that_is_refused_leaves_model_and_receipt():
    before = RECEIPT.read_bytes(), Path("m.bitnet").read_bytes()
    with pytest.raises(UsageError):
        create(shape="tiny", layers=1, output="m.bitnet", encoding="master", force=True)
    assert before == (RECEIPT.read_bytes(), Path("m.bitnet").read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(outputs=["m.other"]),
        lambda record: record.pop("digest_after"),
        lambda record: record.update(outputs=3),
    ],
)
def test_what_is_no_receipt_of_this_file_stays(change):
    record = json.loads(RECEIPT.read_text())
    change(record)
    RECEIPT.write_text(json.dumps(record))
    create(shape="tiny", layers=1, output="m.bitnet", seed=5, force=True)
    assert json.loads(RECEIPT.read_text()) == record


@pytest.mark.parametrize("format", FORMATS)
def test_a_model_is_created_in_any_format(format, made):
    path = f"any{FORMATS[format].suffixes[0]}"
    # The blocks of GGUF want wide rows; its floats do not.
    encoding = {"gguf": "f32"}.get(format)
    shape = {"gguf": "llama-tiny"}.get(format, "tiny")
    record = create(shape=shape, layers=1, output=path, format=format, encoding=encoding)
    assert record["format"] == format and all(Path(name).exists() for name in record["outputs"])
    if shape == "tiny":
        # Programs are no source; the weights beside them are.
        held = record["outputs"][0] if format == "stablehlo" else path
        assert open_checkpoint(held).digest().to_json() == made["digest_after"]


def test_a_created_graph_is_of_its_profile_and_replaces_what_it_must():
    record = create(shape="tiny", layers=1, output="m.onnx", encoding="size")
    assert record["outputs"] == ["m.onnx", "m.onnx.data"] and record["encoding"] == "size"
    assert open_checkpoint("m.onnx").source.encoding == "size"
    with pytest.raises(CannotCreate) as caught:
        create(shape="tiny", layers=1, output="m.onnx")
    assert caught.value.code == "io.exists"
    create(shape="tiny", layers=1, output="m.onnx", seed=5, force=True)
    assert open_checkpoint("m.onnx").source.encoding == "portable"
    with pytest.raises(UsageError, match="smal"):
        create(shape="tiny", layers=1, output="n.onnx", encoding="smal")
    with pytest.raises(Unavailable, match="gs://bucket/n.onnx"):
        create(shape="tiny", layers=1, output="gs://bucket/n.onnx")
    assert not Path("n.onnx").exists()
