"""The real client of the hub against a fake hub: fetches, cuts, refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from bitnet_jax.core.caches import cache_dir
from bitnet_jax.core.errors import (
    BadData,
    IOFailure,
    NoInput,
    PermissionDenied,
    Resumable,
    Unavailable,
)
from bitnet_jax.core.paths import lock
from bitnet_jax.formats.create import create
from bitnet_jax.formats.locate import locate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.stores import hub_cache
from tests.formats.checkpoints import TINY
from tests.stores import graphs

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model():
    return create("tiny", layers=1)


@pytest.fixture(scope="module")
def repos(hub_process, model, tmp_path_factory):
    """org/tiny with two revisions, and copies of it with other manners."""
    root = hub_process.folder / "org"
    save_checkpoint(model, tmp_path_factory.mktemp("m") / "m", format="huggingface")
    root.mkdir()
    main = root / "tiny" / "main"
    main.parent.mkdir()
    save_checkpoint(model, main, format="huggingface")
    for name in ("pytorch_model.bin", "modeling_bitnet.py", "README.md"):
        (main / name).write_text("never fetched")
    (main / "onnx").mkdir()
    (main / "onnx" / "model.onnx").write_bytes(b"x" * 2000)
    (main / "logs").mkdir()
    (main / "logs" / "events.txt").write_text("no model")
    save_checkpoint(create("tiny", layers=2), root / "tiny" / "v2", format="huggingface")
    for name in ("gated", "private"):
        shutil.copytree(main, root / name / "main")
    (root / "files" / "main" / "sub").mkdir(parents=True)
    save_checkpoint(model, root / "files" / "main" / "sub" / "m.bitnet")
    graphs.ours(model, root / "graph" / "main")
    (root / "graph" / "main" / "model_q4.bin").write_bytes(b"never fetched")
    above = root / "shelf" / "main"
    graphs.others(above / "onnx", "parts/w.bin", config_in=above)
    (above / "tokenizer_config.json").write_text("{}")
    for name, (location, _) in graphs.HOSTILE.items():
        graphs.hostile(root / name / "main", location)
    (root / "pickled" / "main").mkdir(parents=True)
    (root / "pickled" / "main" / "pytorch_model.bin").write_bytes(b"x")
    return root


@pytest.fixture
def fetch(hub, repos):
    return lambda name="hf://org/tiny", **asked: locate(name, **asked)


def weights(repos):
    return (repos / "tiny" / "main" / WEIGHTS).read_bytes()


def test_a_model_is_fetched_into_the_hubs_own_cache(fetch, hub, repos, model):
    place = fetch()
    assert open_checkpoint(place).digest() == model.digest()
    commit = place.origin["commit"]
    assert place.origin == {"repo": "org/tiny", "revision": "main", "commit": commit}
    folder = hub_cache.root() / "models--org--tiny"
    assert place.path == folder / "snapshots" / commit
    blob = folder / "blobs" / hashlib.sha256(weights(repos)).hexdigest()
    assert (place.path / WEIGHTS).resolve() == blob.resolve()
    assert (folder / "refs" / "main").read_text() == commit


def test_the_hubs_own_client_finds_what_was_fetched(fetch):
    from huggingface_hub import hf_hub_download, scan_cache_dir

    place = fetch()
    found = hf_hub_download("org/tiny", WEIGHTS, local_files_only=True, cache_dir=hub_cache.root())
    assert found == str(place.path / WEIGHTS)
    report = scan_cache_dir(hub_cache.root())
    assert not report.warnings
    assert [repo.repo_id for repo in report.repos] == ["org/tiny"]


def test_only_what_a_model_is_read_from_is_fetched(fetch, hub):
    names = {file.name for file in fetch().path.iterdir()}
    assert names == {
        "config.json", "generation_config.json", WEIGHTS, "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert not hub.asked(".bin") + hub.asked(".py") + hub.asked("README")


def test_what_is_there_is_not_fetched_again(fetch, hub):
    fetch()
    hub.faults()
    fetch()
    assert not hub.asked("/resolve/")


def test_a_revision_is_its_own(fetch, model):
    two = fetch("hf://org/tiny@v2")
    assert open_checkpoint(two).spec.num_layers == 2
    assert two.origin["revision"] == "v2"
    assert fetch().path != two.path
    by_commit = fetch(f"hf://org/tiny@{two.origin['commit']}")
    assert by_commit.path == two.path
    assert fetch("org/tiny@v2").path == two.path  # from the cache


def test_one_file_of_a_folder(fetch, model):
    place = fetch("hf://org/files/sub/m.bitnet")
    assert place.path.name == "m.bitnet"
    assert open_checkpoint(place).digest() == model.digest()
    assert open_checkpoint(fetch("hf://org/files/sub")).digest() == model.digest()
    assert place.origin["file"] == "sub/m.bitnet"


def test_a_folder_whose_only_model_is_a_graph(fetch):
    place = fetch("hf://org/tiny/onnx")
    with pytest.raises(BadData) as caught:
        open_checkpoint(place)
    assert caught.value.code == "file.wrong_kind"  # fetched, and seen to be none


@pytest.mark.parametrize("name", ["hf://org/graph", "hf://org/graph/model.onnx"])
def test_a_graph_is_fetched_with_the_data_that_it_names(fetch, hub, model, name):
    place = fetch(name)
    found = open_checkpoint(place)
    assert found.digest() == model.digest()
    assert found.source.origin["repo"] == "org/graph"
    assert not hub.asked("model_q4")
    hub.faults()
    again = fetch(name, offline=True)
    assert again == place and not hub.asked()
    assert open_checkpoint(fetch("org/graph")).digest() == model.digest()  # from the cache


@pytest.mark.parametrize("name", ["hf://org/shelf/onnx", "hf://org/shelf/onnx/model.onnx"])
def test_a_graph_of_others_brings_the_config_from_the_folder_above(fetch, hub, name):
    place = fetch(name)
    found = open_checkpoint(place)
    assert found.spec.hidden_size == TINY.hidden_size and found.digest()
    root = place.path if place.path.is_dir() else place.path.parent
    assert (root / "parts" / "w.bin").is_file() and (root.parent / "config.json").is_file()
    assert found.source.detail["files"] == ["../config.json", "../tokenizer_config.json",
                                            "parts/w.bin"]  # fmt: skip
    hub.faults()
    assert fetch(name, offline=True) == place and not hub.asked()


@pytest.mark.parametrize("name", graphs.HOSTILE)
def test_a_graph_whose_data_lies_elsewhere_is_refused(fetch, hub, name):
    with pytest.raises(BadData) as caught:
        fetch(f"hf://org/{name}")
    assert caught.value.code == graphs.HOSTILE[name][1]
    assert not hub.asked("passwd") + hub.asked("safetensors")
    assert {file.name for file in hub_cache.root().rglob("snapshots/*/*")} <= {"model.onnx"}


def test_offline_without_its_data_a_graph_is_refused(fetch):
    place = fetch("hf://org/graph")
    (place.path / "model.onnx.data").unlink()
    with pytest.raises(BadData, match=r"model\.onnx\.data") as caught:
        fetch("hf://org/graph", offline=True)
    assert caught.value.code == "onnx.external_missing"


def test_a_cut_is_mended_within_a_fetch(fetch, hub, repos):
    hub.faults(cut={"name": WEIGHTS, "after": 30000, "times": 2})
    place = fetch()
    assert (place.path / WEIGHTS).read_bytes() == weights(repos)
    ranges = [row[2] for row in hub.asked(f"cdn/org/tiny/main/{WEIGHTS}")]
    assert ranges == [None, "bytes=30000-", "bytes=60000-"]


def test_a_fetch_goes_on_where_an_earlier_one_was_cut(fetch, hub, repos):
    hub.faults(cut={"name": WEIGHTS, "after": 30000, "times": 99, "once": True})
    with pytest.raises(IOFailure) as caught:
        fetch()
    assert caught.value.code == "store.cut"
    assert "goes on from there" in caught.value.hint
    blobs = hub_cache.root() / "models--org--tiny" / "blobs"
    part = blobs / f"{hashlib.sha256(weights(repos)).hexdigest()}.part"
    assert part.read_bytes() == weights(repos)[:30000]
    assert not list(blobs.parent.rglob(WEIGHTS))
    assert not (blobs.parent / "refs" / "main").exists()
    hub.faults()
    place = fetch()
    assert [row[2] for row in hub.asked("cdn/")][0] == "bytes=30000-"
    assert (place.path / WEIGHTS).read_bytes() == weights(repos)
    assert not part.exists()


def test_a_killed_fetch_goes_on(fetch, hub, repos, environment):
    hub.faults(slow=0.05)
    line = "from bitnet_jax.formats.locate import locate; locate('hf://org/tiny')"
    process = subprocess.Popen([sys.executable, "-c", line], env=environment)
    blobs = hub_cache.root() / "models--org--tiny" / "blobs"
    part = blobs / f"{hashlib.sha256(weights(repos)).hexdigest()}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    size = part.stat().st_size
    assert 0 < size < len(weights(repos))
    hub.faults()
    assert (fetch().path / WEIGHTS).read_bytes() == weights(repos)
    assert [row[2] for row in hub.asked("cdn/")][0] == f"bytes={size}-"


def test_a_stalled_connection_is_given_up_and_resumed(fetch, hub, repos, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    hub.faults(cut={"name": WEIGHTS, "after": 8192, "times": 1, "stall": 4})
    assert (fetch().path / WEIGHTS).read_bytes() == weights(repos)
    assert [row[2] for row in hub.asked(f"cdn/org/tiny/main/{WEIGHTS}")] == [None, "bytes=8192-"]


def test_a_server_without_ranges(fetch, hub, repos):
    hub.faults(cut={"name": WEIGHTS, "after": 8192, "times": 1}, no_ranges=True)
    assert (fetch().path / WEIGHTS).read_bytes() == weights(repos)


@pytest.mark.parametrize(
    "fault", [{"wrong": WEIGHTS}, {"wrong": "config.json"}, {"longer": WEIGHTS}]
)
def test_wrong_bytes_get_no_name(fetch, hub, fault):
    hub.faults(**fault)
    with pytest.raises(IOFailure) as caught:
        fetch()
    assert caught.value.code == "store.checksum"
    folder = hub_cache.root() / "models--org--tiny"
    name = next(iter(fault.values()))
    assert not list(folder.rglob(name)) and not list(folder.rglob("*.part"))
    hub.faults()
    open_checkpoint(fetch()).digest()


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("hf://org/nothere", NoInput, "hub.repo_not_found"),
        ("hf://org/private", NoInput, "hub.repo_not_found"),
        ("hf://org/gated", PermissionDenied, "hub.gated"),
        ("hf://org/tiny@v3", NoInput, "hub.revision_not_found"),
        ("hf://org/tiny/nothere.bitnet", NoInput, "hub.file_not_found"),
        ("hf://org/tiny/logs", BadData, "huggingface.no_config"),
        ("hf://org/pickled", BadData, "huggingface.pickle"),
        ("org/nothere", NoInput, "model.not_found"),
    ],
)
def test_what_is_not_there_or_not_for_you(fetch, name, kind, code):
    with pytest.raises(kind) as caught:
        fetch(name)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_token_opens_what_is_private_and_stays_with_the_hub(fetch, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    for name in ("private", "gated"):
        fetch(f"hf://org/{name}")
    assert {row[3] for row in hub.asked("/api/models")} == {"hf_good"}
    assert {row[3] for row in hub.asked("/cdn/")} == {""}  # another host gets no token


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, PermissionDenied, "hub.denied"),
        (403, PermissionDenied, "hub.denied"),
        (404, Unavailable, "hub.unreachable"),
        (429, Unavailable, "hub.unreachable"),
        (500, Unavailable, "hub.unreachable"),
        (503, Unavailable, "hub.unreachable"),
    ],
)
def test_the_hubs_refusals(fetch, hub, status, kind, code):
    message = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.faults(status=[status, message if status == 401 else {}])
    with pytest.raises(kind) as caught:
        fetch()
    assert (caught.value.code, str(status) in caught.value.message) == (code, True)


def test_a_busy_server_is_asked_again(fetch, hub):
    commit = fetch().origin["commit"]
    shutil.rmtree(hub_cache.root())
    hub.faults(status=[503, {"Retry-After": "0"}], status_times=2)
    assert fetch().origin["commit"] == commit


def test_no_network(fetch, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable) as caught:
        fetch()
    assert caught.value.code == "hub.unreachable"
    assert "127.0.0.1:1" in caught.value.message


def test_offline_takes_what_is_in_the_cache_and_asks_nobody(fetch, hub, monkeypatch):
    with pytest.raises(Unavailable) as caught:
        fetch(offline=True)
    assert caught.value.code == "hub.offline"
    commit = fetch().origin
    hub.faults()
    assert fetch(offline=True).origin == commit
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch().origin == commit
    with pytest.raises(Unavailable, match="revisions|not in the local cache"):
        fetch("hf://org/tiny@v2")
    assert not hub.asked()


def test_offline_says_which_files_the_cache_lacks(fetch):
    place = fetch()
    (place.path / WEIGHTS).unlink()
    with pytest.raises(NoInput, match="no safetensors file"):
        fetch(offline=True)
    (place.path / "config.json").unlink()
    with pytest.raises(BadData, match="holds no model: `generation_config.json`"):
        fetch(offline=True)


def test_an_id_in_the_cache_needs_neither_the_network_nor_the_package(fetch, hub, monkeypatch):
    place = fetch()
    hub.faults()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert fetch("org/tiny").path == place.path
    assert fetch("org/tiny").origin == place.origin
    assert not hub.asked()


def test_without_the_package_the_line_that_installs_it(fetch, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Unavailable) as caught:
        fetch()
    assert caught.value.code == "store.extra_missing"
    assert caught.value.hint == "pip install 'bitnet-jax[hub]'"


def test_a_path_that_exists_wins(fetch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert not fetch("org/tiny").origin


def test_a_full_disk_is_told_before_a_byte_is_fetched(fetch, hub, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(IOFailure) as caught:
        fetch()
    assert caught.value.code == "io.disk_full"
    assert not hub.asked("/resolve/")


def test_a_disk_that_fills_up_keeps_what_arrived(hub, repos, environment):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
    line = (
        limit + "from bitnet_jax.formats.locate import locate\n"
        "from bitnet_jax.core.errors import IOFailure\n"
        "try:\n    locate('hf://org/tiny')\n"
        "except IOFailure as error:\n    print(error.code, '|', error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", line], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("io.disk_full | what has arrived is kept"), done.stderr
    [part] = hub_cache.root().rglob("*.part")
    assert part.read_bytes() == weights(repos)[:50000]


def test_a_cache_that_is_shared_and_read_only(fetch, monkeypatch):
    place = fetch()
    reference = hub_cache.root() / "models--org--tiny" / "refs" / "main"
    before = reference.stat().st_ino
    assert fetch().path == place.path
    assert reference.stat().st_ino == before  # not written again


def test_a_cache_that_cannot_be_written(fetch, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(NoInput, match="file"):
        fetch()


def test_two_at_once(fetch):
    key = hashlib.sha256(str(hub_cache.Repo("org/tiny").folder).encode()).hexdigest()[:24]
    with lock(cache_dir("locks") / key), pytest.raises(Resumable):
        fetch()


@pytest.mark.parametrize(
    "answer",
    [
        {"sha": "../../../etc"},
        {"sibling": {WEIGHTS: {"lfs": {"sha256": "../../x", "size": 1, "pointerSize": 1}}}},
        {"sibling": {WEIGHTS: {"size": -1}}},
        {"sibling": {"config.json": {"blobId": "x"}}},
        {"sibling": {"config.json": {"size": None}}},
    ],
)
def test_a_hostile_hub_writes_nowhere(fetch, hub, tmp_path, answer):
    hub.faults(**answer)
    with pytest.raises(BadData) as caught:
        fetch()
    assert caught.value.code == "hub.answer"
    assert not list(hub_cache.root().rglob("*.part"))


def test_progress_counts_the_bytes(fetch):
    class Task:
        def __init__(self, total):
            self.total, self.done = total, 0

        def update(self, count):
            self.done += count

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    class Progress:
        def task(self, label, total, unit):
            assert unit == "bytes" and "org/tiny" in label
            self.shown = Task(total)
            return self.shown

    progress = Progress()
    place = fetch(progress=progress)
    sizes = sum(file.stat().st_size for file in place.path.iterdir())
    assert progress.shown.done == progress.shown.total == sizes


@pytest.mark.heavy
def test_record_and_receipt_name_the_commit(fetch, tmp_path):
    from bitnet_jax import api

    out = tmp_path / "m.bitnet"
    record = api.convert("hf://org/tiny@main", out, probe=False)
    commit = hub_cache.commit_of(hub_cache.Repo("org/tiny"))
    source = {"repo": "org/tiny", "revision": "main", "commit": commit}
    assert record["source"] == source
    assert json.loads((tmp_path / "m.receipt.json").read_text())["source"] == source
    assert api.convert(out, tmp_path / "n.bitnet", probe=False)["source"] == {"path": str(out)}


def test_the_command_line(fetch, environment, tmp_path):
    def bitnet(*words):
        line = [sys.executable, "-m", "bitnet_cli.main", "model", "inspect", *words, "--json"]
        done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, timeout=120)
        return done.returncode, json.loads(done.stdout)

    rc, refused = bitnet("hf://org/tiny", "--offline")
    assert (rc, refused["errors"][0]["code"]) == (69, "hub.offline")
    rc, record = bitnet("hf://org/tiny")
    assert (rc, record["data"]["source"]["repo"]) == (0, "org/tiny")
    rc, again = bitnet("org/tiny")
    assert (rc, again["data"]["digest"]) == (0, record["data"]["digest"])
