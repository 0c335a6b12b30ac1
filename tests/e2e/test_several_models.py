"""Several models in one call, for real: processes, files, and going on after a stop."""

from __future__ import annotations

import json
import signal

import pytest

from tests.e2e.terminal import Folder, finish, here, sha256, spawn, start, wait_for

NAMES = ("a", "b")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(NAMES):
        assert here("model", "create", "tiny", "-l", "1", "-s", seed, "-o", f"{name}.hf").rc == 0
    return tmp_path


def models(ended):
    return {m["model"]: m for m in ended.envelope["data"]["models"]}


@pytest.mark.heavy
def test_in_processes_of_their_own_the_bytes_are_the_same(place):
    inputs = [f"{name}.hf" for name in NAMES]
    one = spawn("model", "convert", "--input", *inputs, "-O", "one", "--json", cwd=place)
    two = spawn("model", "convert", *inputs, "-O", "two", "-j", "2", "--json", cwd=place)
    assert one.rc == two.rc == 0, one.err + two.err
    for name in NAMES:
        assert sha256(place / f"one/{name}.bitnet") == sha256(place / f"two/{name}.bitnet")


def test_what_is_converted_is_skipped_and_what_is_damaged_is_told(place):
    line = ("model", "convert", *(f"{name}.hf" for name in NAMES), "-O", "out", "--json")
    assert here(*line).rc == 0
    before = Folder(place / "out")
    again = here(*line)
    assert again.rc == 0 and all(m["skipped"] for m in models(again).values())
    before.check_untouched()
    # One that does not open any more stays as it is: nothing is overwritten.
    (place / "out/b.bitnet").write_bytes(b"half of a mod")
    damaged = here(*line)
    assert (damaged.rc, models(damaged)["b.hf"]["errors"][0]["code"]) == (73, "io.exists")
    assert models(damaged)["a.hf"]["skipped"]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.heavy)])
def test_stopped_and_started_again_it_goes_on(place, jobs):
    spare = [f"{name}.hf" for name in NAMES]
    process = start("model", "convert", *spare, "-O", "out", "-j", jobs, "--json", cwd=place)
    wait_for(place, "out/*.receipt.json", process)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert not list(place.glob("out/.*")), "nothing half-written is left"
    # The receipt comes first: a run that was killed in between leaves one without its file.
    done = {name for name in NAMES if (place / f"out/{name}.bitnet").exists()}
    assert all((place / f"out/{name}.receipt.json").exists() for name in done)
    if stopped.rc == 75:
        assert [e["code"] for e in stopped.envelope["errors"]] == ["batch.stopped"]
    else:  # it was faster than the signal
        assert stopped.rc == 0 and len(done) == len(NAMES)
    again = here("model", "convert", *spare, "-O", "out", "--json")
    assert again.rc == 0
    assert {m["model"][0] for m in models(again).values() if m["skipped"]} == done


def test_records_of_a_look_are_files(place):
    ended = here("model", "inspect", *(f"{n}.hf" for n in NAMES), "-O", "records", "--json")
    assert ended.rc == 0
    record = json.loads((place / "records/a.hf.json").read_text())
    assert record["data"]["digest"] == models(ended)["a.hf"]["data"]["digest"]
    assert all(
        m["skipped"]
        for m in models(
            here("model", "inspect", *(f"{n}.hf" for n in NAMES), "-O", "records", "--json")
        ).values()
    )
