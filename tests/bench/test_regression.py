from __future__ import annotations

import json

import pytest

from bitnet_jax.bench.regression import bench_regression
from bitnet_jax.core.errors import BadData, NoInput
from tests.bench.records import run_record


def verdicts(one, other):
    return {row["name"]: row["verdict"] for row in bench_regression(one, other)["comparisons"]}


def test_the_same_speed_passes():
    found = bench_regression(run_record(), run_record(20.1))
    assert found["passed"] and found["slower"] == []
    assert set(verdicts(run_record(), run_record(20.1)).values()) == {"no difference seen"}


def test_a_tenth_slower_on_a_machine_that_is_the_same_is_a_regression():
    found = bench_regression(run_record(20), run_record(18))
    assert not found["passed"] and len(found["slower"]) == 4
    row = found["comparisons"][2]
    assert row["name"] == "decode, batch 1" and row["ratio"] == pytest.approx(0.9)
    assert row["ratio_interval"][1] < 1 and row["beside"] == "bandwidth"
    assert found["comparisons"][0]["beside"] == "int8_peak"


def test_what_is_slower_because_its_machine_is_is_none():
    found = bench_regression(run_record(20), run_record(18, gb_s=27, tops=0.9))
    assert found["passed"]
    assert {row["verdict"] for row in found["comparisons"]} == {"slower, as the machine is"}


def test_faster_is_said():
    assert set(verdicts(run_record(20), run_record(30)).values()) == {"faster"}


def test_one_slower_row_is_enough_and_is_named():
    other = run_record()
    other["results"][3] = run_record(15)["results"][3]
    found = bench_regression(run_record(), other)
    assert found["slower"] == ["decode, batch 4"] and not found["passed"]


def test_files_of_either_kind_are_read(tmp_path):
    bare, whole = tmp_path / "bare.json", tmp_path / "whole.json"
    bare.write_text(json.dumps(run_record()))
    envelope = {"schema": "bitnet/1", "command": "bench run", "ok": True, "data": run_record()}
    whole.write_text(json.dumps(envelope))
    assert bench_regression(bare, whole)["passed"]
    envelope["ok"] = False
    whole.write_text(json.dumps(envelope))
    with pytest.raises(BadData, match="failed"):
        bench_regression(bare, whole)


def changed(**changes):
    return {**run_record(), **changes}


def few(record):
    record["results"][0]["tokens_per_second"]["values"] = [1.0, 2.0]
    return record


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (changed(machine={**run_record()["machine"], "processor": "x"}), "bench.machines_differ"),
        (changed(machine={**run_record()["machine"], "cores": 4}), "bench.machines_differ"),
        (changed(settings={"device": "cpu"}), "bench.settings_differ"),
        (changed(settings={**run_record()["settings"], "prompt_tokens": 8}), "bench.settings_diff"),
        (changed(results=run_record()["results"][:2]), "bench.settings_differ"),
        (changed(architecture={"family": "other"}), "bench.models_differ"),
        (changed(schema="bench-run/2"), "bench.schema"),
        ({"schema": "bitnet/1", "command": "model inspect", "data": {}}, "bench.schema"),
        ({}, "bench.schema"),
        (changed(results=[]), "bench.record"),
        (changed(results=[3]), "bench.record"),
        (changed(results=[{"tokens_per_second": {"values": [1, 2, float("nan")]}}]), "bench.rec"),
        (changed(machine=None), "bench.record"),
        (few(run_record()), "bench.record"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, code):
    with pytest.raises(BadData) as caught:
        bench_regression(run_record(), other)
    assert caught.value.code.startswith(code) and caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '"x"', "NaN"])
def test_a_file_that_is_no_record_is_bad_data(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadData, match="x.json"):
        bench_regression(path, run_record())


def test_a_file_that_is_missing_is_no_input(tmp_path):
    with pytest.raises(NoInput):
        bench_regression(tmp_path / "none.json", run_record())


def test_shared_machines_and_other_kernels_are_told():
    other = run_record()
    other["machine"]["load_average"] = 3.0
    other["results"][0]["kernel"] = "xla"
    words = " ".join(bench_regression(run_record(), other)["warnings"])
    assert "the current run shared its machine" in words and "kernel xla" in words
