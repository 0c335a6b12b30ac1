"""Publishing to the hub, with its real client against the fake hub: whole, or not at all."""

from __future__ import annotations

import json
import shutil
import urllib.request

import pytest
from huggingface_hub import constants

from bitnet_jax.core.errors import (
    BadData,
    IOFailure,
    PermissionDenied,
    Resumable,
    Unavailable,
    UsageError,
)
from bitnet_jax.formats.create import create, save_created
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.stores import hub_publish
from bitnet_jax.workflows.export import export_model
from bitnet_jax.workflows.publish import publish

# The hub's client calls its HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture
def model(tmp_path):
    save_checkpoint(create("tiny", layers=1), tmp_path / "m.hf", format="huggingface")
    return tmp_path / "m.hf"


@pytest.fixture
def writable(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    # Large files by the plain protocol: the other has a service of its own.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub
    shutil.rmtree(hub.folder / "me", ignore_errors=True)


def files(hub, name="new"):
    folder = hub.folder / "me" / name / "main"
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else None


def made(hub):
    with urllib.request.urlopen(f"{hub.endpoint}/fake/made", timeout=10) as answer:
        return json.load(answer)


def what(record):
    return {row["file"]: row["what"] for row in record["changes"]}


def test_a_new_repository(writable, model):
    shown = []
    record = publish(
        model,
        "hf://me/new",
        private=True,
        message="first",
        confirm=lambda r: shown.append(r) or True,
    )
    assert set(what(shown[0]).values()) == {"added"} and not shown[0]["exists"]
    assert record["published"] and record["card"] == "written"
    assert (
        made(writable)["visible"]["me/new"] == "private"
        and made(writable)["messages"][-1] == "first"
    )
    there = files(writable)
    assert there["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert record["digest"]["trits"].encode() in there["README.md"]
    assert open_checkpoint("hf://me/new").digest().to_json() == record["digest"]
    commits = [row for row in writable.asked("/commit/") if row[0] == "POST"]
    assert len(commits) == 1


def test_again_there_is_nothing_to_do(writable, model):
    publish(model, "hf://me/new")
    record = publish(model, "hf://me/new", confirm=lambda r: pytest.fail("asked for nothing"))
    assert not record["published"] and set(what(record).values()) == {"same"}


def test_another_model_replaces_the_files_of_the_old_one_only(writable, model, tmp_path):
    publish(model, "hf://me/new")
    folder = writable.folder / "me/new/main"
    (folder / "LICENSE").write_text("theirs")
    (folder / "pytorch.gguf").write_text("a model of another day")
    save_checkpoint(create("tiny", layers=1, seed=1), tmp_path / "b.hf", format="huggingface")
    record = publish(tmp_path / "b.hf", "hf://me/new")
    assert what(record)["model.safetensors"] == "changed"
    assert what(record)["pytorch.gguf"] == "removed" and what(record)["tokenizer.json"] == "same"
    assert set(files(writable)) >= {"LICENSE", "model.safetensors", "README.md"}
    assert "pytorch.gguf" not in files(writable)


def test_no_is_no(writable, model):
    record = publish(model, "hf://me/new", confirm=lambda r: False)
    assert not record["published"] and files(writable) is None
    assert not [row for row in writable.asked() if row[0] in ("POST", "PUT")]


def test_somebody_s_own_card_is_kept(writable, model):
    (model / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    record = publish(model, "hf://me/new")
    assert record["card"] == "kept" and b"Mine." in files(writable)["README.md"]


def test_what_is_no_model_s_stays_at_home(writable, model):
    for name in ("secrets.txt", "receipt.json", ".netrc"):
        (model / name).write_text("{}")
    record = publish(model, "hf://me/new")
    assert set(record["left_out"]) == {"secrets.txt", "receipt.json", ".netrc"}
    assert not {"secrets.txt", "receipt.json", ".netrc"} & set(files(writable))


def test_one_file_goes_with_a_card(writable, tmp_path):
    save_checkpoint(create("tiny", layers=1), tmp_path / "m.bitnet")
    publish(tmp_path / "m.bitnet", "hf://me/new")
    assert set(files(writable)) == {"m.bitnet", "README.md"}


@pytest.mark.heavy
def test_a_graph_goes_with_its_data(writable, tmp_path):
    save_checkpoint(create("tiny", layers=1), tmp_path / "m.bitnet")
    export_model(tmp_path / "m.bitnet", tmp_path / "m.onnx", probe=False)
    publish(tmp_path / "m.onnx", "hf://me/new")
    assert set(files(writable)) == {"m.onnx", "m.onnx.data", "README.md"}
    assert open_checkpoint("hf://me/new").digest() == open_checkpoint(tmp_path / "m.onnx").digest()


@pytest.mark.parametrize(
    "fault",
    [
        {"put_status": 403},
        {"post": {"path": "/commit/", "status": 500}},
        {"post": {"path": "/objects/batch", "status": 403}},
    ],
)
def test_a_failure_leaves_the_repository_as_it_was(writable, model, tmp_path, fault, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    publish(model, "hf://me/new")
    before = files(writable)
    save_checkpoint(create("tiny", layers=1, seed=2), tmp_path / "b.hf", format="huggingface")
    writable.faults(**fault)
    with pytest.raises((IOFailure, PermissionDenied, Unavailable)) as caught:
        publish(tmp_path / "b.hf", "hf://me/new")
    assert caught.value.hint and files(writable) == before
    writable.faults()
    assert publish(tmp_path / "b.hf", "hf://me/new")["published"]


def test_somebody_else_was_faster(writable, model, tmp_path):
    publish(model, "hf://me/new")

    def confirm(record):
        (writable.folder / "me/new/main/NEWS.md").write_text("theirs")
        return True

    save_checkpoint(create("tiny", layers=1, seed=2), tmp_path / "b.hf", format="huggingface")
    with pytest.raises(Resumable) as caught:
        publish(tmp_path / "b.hf", "hf://me/new", confirm=confirm)
    assert caught.value.code == "hub.moved"
    assert files(writable)["model.safetensors"] == (model / "model.safetensors").read_bytes()


def test_without_a_token(hub, model):
    with pytest.raises(PermissionDenied):
        publish(model, "hf://me/other")


@pytest.mark.parametrize("repo", ["me/new", "gs://me/new", "hf://me", "hf://me/new/file.bin"])
def test_an_address_that_is_none(writable, model, repo):
    with pytest.raises(UsageError):
        publish(model, repo)


def test_offline_and_without_the_package(writable, model, monkeypatch):
    with pytest.raises(Unavailable, match="offline"):
        publish(model, "hf://me/new", offline=True)
    monkeypatch.setattr(hub_publish, "PACKAGE", "no_such_package")
    with pytest.raises(Unavailable) as caught:
        publish(model, "hf://me/new")
    assert caught.value.code == "store.extra_missing" and "bitnet-jax[hub]" in caught.value.hint


def test_a_model_with_an_error_is_not_published(writable, tmp_path):
    save_created(create("tiny", layers=1, defect="zero_mlp"), tmp_path / "bad.hf")
    with pytest.raises(BadData, match="not published"):
        publish(tmp_path / "bad.hf", "hf://me/new")
    assert files(writable) is None
