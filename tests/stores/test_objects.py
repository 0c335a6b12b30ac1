"""Models in object stores: staged, resumed, refused; outputs uploaded, the last object last.

Every case runs against a store in memory, and (heavy) with the real client against a server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet_jax.core.errors import (
    BadData,
    CannotCreate,
    IOFailure,
    NoInput,
    PermissionDenied,
    Unavailable,
    UsageError,
)
from bitnet_jax.formats.create import create
from bitnet_jax.formats.deliver import delivered
from bitnet_jax.formats.locate import locate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.stores.address import Address
from bitnet_jax.stores.objects import filesystem
from tests.formats.checkpoints import TINY
from tests.stores import graphs
from tests.stores.object_stores import STORES

BLOCK = 16384
KERNELS = os.environ["BITNET_CACHE_DIR"]


@pytest.fixture(scope="module")
def model():
    return create("tiny", layers=1)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """The model as a file and as a folder."""
    root = tmp_path_factory.mktemp("saved")
    save_checkpoint(model, root / "m.bitnet")
    save_checkpoint(model, root / "m.hf", format="huggingface")
    return root


@pytest.fixture(
    scope="module",
    params=[
        name if name == "memory" else pytest.param(name, marks=pytest.mark.heavy) for name in STORES
    ],
)
def running(request):
    store = STORES[request.param]()
    yield store
    store.close()


@pytest.fixture
def store(running, saved, tmp_path, monkeypatch):
    """An empty bucket `b`, and a cache of the test's own."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("bitnet_jax.stores.transfer.FIRST_WAIT", 0.01)
    monkeypatch.setattr("bitnet_jax.stores.objects.BLOCK", BLOCK)
    running.environment(monkeypatch)
    running.faults(empty=True)
    for name in running.objects():  # memory has no word for it
        running.fs.rm_file(name)
    return running


@pytest.fixture
def file(store, saved):
    store.put("b/m.bitnet", (saved / "m.bitnet").read_bytes())
    return f"{store.scheme}://b/m.bitnet"


@pytest.fixture
def folder(store, saved):
    for item in (saved / "m.hf").iterdir():
        store.put(f"b/models/tiny/{item.name}", item.read_bytes())
    store.put("b/models/tiny/pytorch_model.bin", b"never fetched")
    store.put("b/models/tiny/code.py", b"never fetched")
    return f"{store.scheme}://b/models/tiny"


def parts(tmp_path):
    return list((tmp_path / "cache").rglob("*.part"))


def test_a_file_is_staged(file, model):
    place = locate(file)
    assert open_checkpoint(place).digest() == model.digest()
    assert place.origin["url"] == file
    assert open_checkpoint(place).source.to_json()["object"]


def test_a_folder_is_staged_as_far_as_a_model_is_read_from_it(folder, model):
    place = locate(folder)
    assert open_checkpoint(place).digest() == model.digest()
    names = {item.name for item in place.path.iterdir()}
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".py")) for name in names)


def test_one_file_of_a_folder_brings_its_config(folder, model):
    place = locate(f"{folder}/model.safetensors")
    assert open_checkpoint(place).digest() == model.digest()


def test_shards_come_with_their_index(store, saved, model):
    name = "model-00001-of-00001.safetensors"
    for item in (saved / "m.hf").iterdir():
        called = name if item.suffix == ".safetensors" else item.name
        store.put(f"b/s/{called}", item.read_bytes())
    tensors = json.loads(
        (saved / "m.hf" / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}"
    )
    index = {"weight_map": {tensor: name for tensor in tensors if tensor != "__metadata__"}}
    store.put("b/s/model.safetensors.index.json", json.dumps(index).encode())
    for address in ("s", f"s/{name}"):
        place = locate(f"{store.scheme}://b/{address}")
        assert open_checkpoint(place).digest() == model.digest()
    index["weight_map"]["x"] = "model-00002-of-00002.safetensors"
    store.put("b/s/model.safetensors.index.json", json.dumps(index).encode())
    with pytest.raises(NoInput) as caught:
        locate(f"{store.scheme}://b/s")
    assert caught.value.code == "huggingface.missing_shard"


@pytest.mark.parametrize("address", ["g", "g/model.onnx"])
def test_a_graph_comes_with_the_data_that_it_names(store, model, tmp_path, address):
    graphs.ours(model, tmp_path / "g")
    put(store, tmp_path, "g")
    assert open_checkpoint(locate(f"{store.scheme}://b/{address}")).digest() == model.digest()
    (tmp_path / "g").rename(tmp_path / "h")
    (tmp_path / "h/model.onnx.data").unlink()
    put(store, tmp_path, "h")
    with pytest.raises(BadData) as caught:
        locate(f"{store.scheme}://b/{address.replace('g', 'h', 1)}")
    assert caught.value.code == "onnx.external_missing"


def test_a_graph_of_others_brings_the_config_from_the_folder_above(store, tmp_path):
    graphs.others(tmp_path / "s" / "onnx", "parts/w.bin", config_in=tmp_path / "s")
    put(store, tmp_path, "s")
    for address in ("s/onnx", "s/onnx/model.onnx"):
        found = open_checkpoint(locate(f"{store.scheme}://b/{address}"))
        assert found.spec.hidden_size == TINY.hidden_size and found.digest()


def put(store, root, folder):
    for file in (root / folder).rglob("*"):
        if file.is_file():
            store.put(f"b/{file.relative_to(root).as_posix()}", file.read_bytes())


def test_what_is_staged_is_not_read_again(store, file):
    locate(file)
    store.faults()
    locate(file)
    assert store.ranges("m.bitnet") == []


def test_an_object_that_was_replaced_is_read_anew(store, file, saved):
    first = locate(file)
    two = create("tiny", layers=2)
    save_checkpoint(two, saved / "two.bitnet", force=True)
    store.put("b/m.bitnet", (saved / "two.bitnet").read_bytes())
    assert open_checkpoint(locate(file)).digest() == two.digest()
    assert first.path.exists()  # somebody may be reading it


def test_a_cut_is_mended_within_a_fetch(store, file, model):
    store.faults(cut_get={"name": "m.bitnet", "skip": 2, "times": 1})
    assert open_checkpoint(locate(file)).digest() == model.digest()


def test_a_fetch_goes_on_where_an_earlier_one_was_cut(store, file, model, tmp_path):
    store.faults(cut_get={"name": "m.bitnet", "skip": 2, "times": 999})
    with pytest.raises(IOFailure) as caught:
        locate(file)
    assert caught.value.code == "store.cut"
    [part] = parts(tmp_path)
    assert part.stat().st_size == 2 * BLOCK
    assert not list((tmp_path / "cache").rglob("m.bitnet"))
    store.faults()
    assert open_checkpoint(locate(file)).digest() == model.digest()
    assert store.ranges("m.bitnet")[0] == 2 * BLOCK
    assert not parts(tmp_path)


def test_wrong_bytes_are_noticed(store, file):
    store.faults(wrong="b/m.bitnet")
    with pytest.raises((IOFailure, BadData)) as caught:
        open_checkpoint(locate(file)).digest()
    # Google states a checksum of each object; elsewhere the format's own notices.
    code = "store.checksum" if store.scheme == "gs" else "file.truncated"
    assert caught.value.code == code or "checksum" in caught.value.code


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("b/nothere.bitnet", NoInput, "store.not_found"),
        ("nothere", NoInput, "store.not_found"),
        ("b/x/y/z", NoInput, "store.not_found"),
    ],
)
def test_what_is_not_there(store, file, name, kind, code):
    with pytest.raises(kind) as caught:
        locate(f"{store.scheme}://{name}")
    assert caught.value.code == code


def test_folders_that_hold_no_model_or_several(store, file, saved):
    store.put("b/none/readme.txt", b"x")
    store.put("b/pickled/model.pth", b"x")
    store.put("b/two/a.bitnet", b"x")
    store.put("b/two/b.bitnet", b"x")
    for name, code in [
        ("none", "huggingface.no_config"),
        ("pickled", "huggingface.pickle"),
        ("two", "file.which_model"),
    ]:
        with pytest.raises((NoInput, BadData)) as caught:
            locate(f"{store.scheme}://b/{name}")
        assert caught.value.code == code


def test_a_store_that_refuses(store, file):
    store.faults(status=[403, "AccessDenied"])
    with pytest.raises(PermissionDenied) as caught:
        locate(file)
    assert caught.value.code == "store.denied"


def test_offline_reaches_no_store(store, file, monkeypatch):
    with pytest.raises(Unavailable) as caught:
        locate(file, offline=True)
    assert caught.value.code == "store.offline"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable), delivered(file):
        pass


# ------------------------------------------------------------------------------ outputs


def deliver(model, url, **asked):
    with delivered(url, **asked) as delivery:
        save_checkpoint(model, delivery.path)
        return delivery


def staged(tmp_path):
    return [path for path in (tmp_path / "cache" / "stores" / "out").rglob("*") if path.is_file()]


def test_a_file_is_uploaded_when_it_is_proven(store, model, tmp_path):
    url = f"{store.scheme}://b/out/m.bitnet"
    with delivered(url) as delivery:
        saved = save_checkpoint(model, delivery.path)
        beside = delivery.path.with_suffix(".receipt.json")
        beside.write_text("{}")
        delivery.beside.append(beside)
        assert not store.objects()
    assert delivery.named(saved.outputs[0]) == url
    assert delivery.named(beside) == f"{store.scheme}://b/out/m.receipt.json"
    assert set(store.objects()) == {"b/out/m.bitnet", "b/out/m.receipt.json"}
    assert open_checkpoint(url).digest() == model.digest()
    assert not staged(tmp_path)


def test_a_folder_is_uploaded_with_its_config_last(store, model):
    url = f"{store.scheme}://b/out/tiny"
    delivery = deliver(model, url)
    assert delivery.named(delivery.path / "config.json") == f"{url}/config.json"
    assert list(store.objects())[-1] == "b/out/tiny/config.json"
    assert open_checkpoint(url).digest() == model.digest()


def test_what_fails_before_the_end_uploads_nothing(store, model, tmp_path):
    with pytest.raises(ZeroDivisionError), delivered(f"{store.scheme}://b/m.bitnet") as delivery:
        save_checkpoint(model, delivery.path)
        raise ZeroDivisionError
    assert not store.objects() and not staged(tmp_path)


def test_nothing_is_replaced_without_force(store, file, folder, model):
    before = store.objects()
    for url in (file, folder):
        with pytest.raises(CannotCreate) as caught:
            deliver(model, url)
        assert caught.value.code == "io.exists"
    store.put("b/new/tokenizer.json", b"x")
    with pytest.raises(CannotCreate):
        deliver(model, f"{store.scheme}://b/new")
    assert store.objects() == {**before, "b/new/tokenizer.json": 1}


def test_force_replaces_and_leaves_no_old_shard(store, folder, model):
    store.put("b/models/tiny/model-00002-of-00002.safetensors", b"old")
    store.put("b/models/tiny/notes.txt", b"mine")
    two = create("tiny", layers=2)
    deliver(two, folder, force=True)
    names = set(store.objects())
    assert "b/models/tiny/model-00002-of-00002.safetensors" not in names
    assert "b/models/tiny/notes.txt" in names
    assert open_checkpoint(folder).digest() == two.digest()


def test_a_cut_upload_leaves_no_object(store, model, tmp_path):
    url = f"{store.scheme}://b/out/m.bitnet"
    store.faults(cut_put={"name": "m.bitnet", "after": 100, "times": 999})
    with pytest.raises(IOFailure) as caught:
        deliver(model, url)
    assert caught.value.code == "store.upload_cut"
    assert not store.objects()
    [kept] = staged(tmp_path)
    assert str(kept) in caught.value.hint
    assert open_checkpoint(kept).digest() == model.digest()
    store.faults()
    deliver(model, url)
    assert open_checkpoint(url).digest() == model.digest()
    assert not staged(tmp_path)


@pytest.mark.parametrize("cut", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_cut_upload_of_a_folder_leaves_no_model(store, model, cut):
    url = f"{store.scheme}://b/out/tiny"
    store.faults(cut_put={"name": f"/{cut}", "after": 100, "times": 999})
    with pytest.raises(IOFailure):
        deliver(model, url)
    assert not store.objects()  # what had been uploaded is removed
    store.faults()
    deliver(model, url)
    assert open_checkpoint(url).digest() == model.digest()


def test_a_cut_replacement_leaves_no_mix(store, folder, model):
    store.faults(cut_put={"name": "tokenizer_config", "after": 100, "times": 999})
    with pytest.raises(IOFailure):
        deliver(create("tiny", layers=2), folder, force=True)
    store.faults()
    assert "b/models/tiny/config.json" not in store.objects()
    with pytest.raises(BadData) as caught:
        open_checkpoint(folder)
    assert caught.value.code == "huggingface.no_config"


def test_a_cut_replacement_of_a_file_leaves_the_old_one(store, file, model, saved):
    url = f"{store.scheme}://b/m.bitnet"
    store.faults(cut_put={"name": "m.bitnet", "after": 100, "times": 999})
    with pytest.raises(IOFailure), delivered(url, force=True) as delivery:
        save_checkpoint(create("tiny", layers=2), delivery.path)
        beside = delivery.path.with_suffix(".receipt.json")
        beside.write_text("{}")
        delivery.beside.append(beside)
    store.faults()
    assert open_checkpoint(url).digest() == model.digest()
    assert "b/m.receipt.json" not in store.objects()


def test_a_receipt_does_not_outlive_the_file_that_it_is_of(store, file):
    store.put("b/m.receipt.json", b"{}")
    with pytest.raises(CannotCreate):
        deliver(create("tiny", layers=2), file)
    deliver(create("tiny", layers=2), file, force=True)
    assert set(store.objects()) == {"b/m.bitnet"}
    store.put("b/n.receipt.json", b"{}")
    with pytest.raises(CannotCreate) as caught:
        deliver(create("tiny", layers=2), f"{store.scheme}://b/n.bitnet")
    assert caught.value.code == "io.exists" and "n.receipt.json" in caught.value.message


def test_a_short_cut_is_mended(store, model):
    store.faults(cut_put={"name": "m.bitnet", "after": 100, "times": 1})
    url = f"{store.scheme}://b/m.bitnet"
    deliver(model, url)
    assert open_checkpoint(url).digest() == model.digest()


def test_an_upload_that_arrives_shortened_is_removed(store, model):
    store.faults(shorten="m.bitnet")
    with pytest.raises(IOFailure) as caught:
        deliver(model, f"{store.scheme}://b/m.bitnet")
    assert caught.value.code == "store.upload_differs"
    assert not store.objects()


def test_a_bucket_is_no_output(store, model):
    with pytest.raises(UsageError):
        deliver(model, f"{store.scheme}://b")


# ------------------------------------------------------------------- not of any one store


def test_the_hub_is_not_written_to_yet(model, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(Unavailable) as caught:
        deliver(model, "hf://org/name/m.bitnet")
    assert caught.value.code == "store.read_only"


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")]
)
def test_without_the_package_the_line_that_installs_it(monkeypatch, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable) as caught:
        filesystem(Address(scheme, "b/m"))
    assert caught.value.code == "store.extra_missing"
    assert caught.value.hint == f"pip install 'bitnet-jax[{extra}]'"


def test_an_object_that_is_replaced_while_it_is_read(monkeypatch, tmp_path, saved):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("BITNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("bitnet_jax.stores.objects.BLOCK", BLOCK)
    store = STORES["memory"]()
    store.environment(monkeypatch)
    data = (saved / "m.bitnet").read_bytes()
    store.put("b/m.bitnet", data)
    store.fs.before_read = lambda path: store.put("b/m.bitnet", data[:-1] + b"!")
    with pytest.raises(IOFailure) as caught:
        locate("gs://b/m.bitnet")
    assert caught.value.code == "store.changed"
    assert not parts(tmp_path)


def test_training_text_may_lie_in_a_store(store, tmp_path):
    from bitnet_jax.stores.store import Reach
    from bitnet_jax.train.config import DataConfig
    from bitnet_jax.workflows.train import read_corpus

    store.put("b/text/a.txt", b"one two three " * 200)
    store.put("b/text/b.jsonl", json.dumps({"text": "four five six " * 200}).encode())
    store.put("b/text/c.png", b"no text")
    local = tmp_path / "text"
    local.mkdir()
    (local / "a.txt").write_bytes(b"one two three " * 200)
    (local / "b.jsonl").write_text(json.dumps({"text": "four five six " * 200}))
    there = read_corpus(DataConfig(paths=(f"{store.scheme}://b/text",)), Reach())
    assert there.report() == read_corpus(DataConfig(paths=(str(local),))).report()


@pytest.mark.parametrize("option", ["--output-dir", "--resume-from"])
def test_a_run_in_a_store_is_refused_before_anything_is_read(option, tmp_path):
    (tmp_path / "r.yaml").write_text("steps: 1\n")
    line = [sys.executable, "-m", "bitnet_cli.main", "train", "start", "-c", "r.yaml", "--json"]
    done = subprocess.run(
        [*line, option, "gs://b/run"], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert done.returncode == 69
    assert json.loads(done.stdout)["errors"][0]["code"] == "store.path_only"
    assert [item.name for item in tmp_path.iterdir()] == ["r.yaml"]


def test_what_must_be_a_path_makes_no_folder_named_gs(model, tmp_path, monkeypatch):
    from bitnet_jax import api

    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("steps: 1\n")
    for refused in (
        lambda: api.quickstart("gs://b/q"),
        lambda: api.train_start("r.yaml", output="gs://b/run"),
        lambda: api.build_kernels("gs://b/kernels"),
        lambda: api.Model(model).save("gs://b/m.bitnet"),
        lambda: api.dump_passes("gs://b/stages").__enter__(),
    ):
        with pytest.raises(Unavailable) as caught:
            refused()
        assert caught.value.code == "store.path_only"
    assert [item.name for item in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.heavy
@pytest.mark.parametrize("running", [name for name in STORES if name != "memory"], indirect=True)
def test_the_command_line_from_store_to_store(store, folder):
    url = f"{store.scheme}://b/m.bitnet"
    line = [sys.executable, "-m", "bitnet_cli.main", "model", "convert", folder, "-o", url]
    done = subprocess.run(
        [*line, "--json"],
        env={**os.environ, "BITNET_CACHE_DIR": KERNELS},
        capture_output=True,
        timeout=300,
    )
    record = json.loads(done.stdout)
    assert done.returncode == 0, record
    assert record["data"]["outputs"] == [url]
    assert record["data"]["source"]["url"] == folder
    assert {"b/m.bitnet", "b/m.receipt.json"} <= set(store.objects())
    assert Path(record["data"]["receipt"]).name == "m.receipt.json"
