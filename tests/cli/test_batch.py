"""One command over several models: records, exit codes, going on, errors."""

import contextlib
import json
from pathlib import Path

import pytest

from bitnet_jax.core.errors import BadData, NoInput

DIGEST = {"trits": "aa" * 32, "trits_scales": "bb" * 32}


def inspected(model, **options):
    if not Path(model).exists():
        raise NoInput("model.not_found", f"`{model}` does not exist")
    return {
        "architecture": {"family": "bitnet"},
        "parameters": 7,
        "bits_per_weight": 2.0,
        "digest": DIGEST,
        "layers": [],
        "runs_in": [],
    }


def converted_now(source, output, **options):
    if source == "odd":
        raise BadData("scale.odd", "a scale is odd")
    Path(output).write_text(source)
    return {"outputs": [output], "digest_before": DIGEST, "digest_after": DIGEST}


def converted_before(source, output, **options):
    same = Path(output).exists() and Path(output).read_text() == source
    return converted_now(source, output) if same else None


@pytest.fixture
def api(fake_api, tmp_path):
    for name in ("a.hf", "b.hf", "c.hf"):
        Path(name).write_text("a model")
    return fake_api(
        inspect=inspected,
        convert=converted_now,
        converted=converted_before,
        dump_passes=lambda folder: contextlib.nullcontext(),
    )


def models(done):
    return {m["model"]: m for m in done.envelope["data"]["models"]}


def test_one_model_is_a_record_as_ever(bitnet, api):
    assert "models" not in bitnet("model", "inspect", "a.hf", "--json").envelope["data"]


def test_several_are_a_record_each_in_the_order_given(bitnet, api):
    done = bitnet("model", "inspect", "--input", "b.hf", "a.hf", "--json")
    assert done.rc == 0
    assert list(models(done)) == ["b.hf", "a.hf"]
    record = models(done)["a.hf"]
    assert record["data"]["parameters"] == 7 and record["ok"] and not record["skipped"]
    assert record["output"] is None
    assert "[1/2] b.hf: done" in done.err


def test_the_exit_code_is_the_worst_and_an_error_stops_no_other(bitnet, api):
    done = bitnet("model", "convert", "a.hf", "odd", "b.hf", "-O", "D", "--json")
    assert done.rc == 65
    assert [m["exit_code"] for m in models(done).values()] == [0, 65, 0]
    assert done.envelope["errors"] == [
        {"code": "scale.odd", "message": "`odd`: a scale is odd", "hint": None}
    ]
    assert Path("D/b.bitnet").read_text() == "b.hf"
    absent = bitnet("model", "inspect", "a.hf", "nowhere", "--json")
    assert (absent.rc, models(absent)["nowhere"]["errors"][0]["code"]) == (66, "model.not_found")


def test_a_bug_in_one_stops_no_other_and_debug_shows_it(bitnet, fake_api):
    def inspect(model, **options):
        return 1 / 0 if model == "x" else {"layers": [], "runs_in": []}

    fake_api(inspect=inspect)
    done = bitnet("model", "inspect", "x", "y", "--json")
    assert done.rc == 70 and models(done)["y"]["ok"]
    assert "Traceback" not in done.err
    assert "ZeroDivisionError" in bitnet("model", "inspect", "x", "y", "--debug").err


def test_what_was_converted_and_still_holds_is_skipped(bitnet, api):
    line = ("model", "convert", "a.hf", "b.hf", "--output-dir", "D", "--json")
    bitnet(*line)
    Path("D/b.bitnet").write_text("something else")
    done = bitnet(*line)
    assert {name: m["skipped"] for name, m in models(done).items()} == {"a.hf": True, "b.hf": False}
    assert "a.hf: done (skipped: done before)" in done.err
    assert {m["skipped"] for m in models(bitnet(*line, "--force")).values()} == {False}


def test_the_name_in_the_folder_is_the_models_with_the_formats_suffix(bitnet, api):
    Path("x").mkdir()
    bitnet("model", "convert", "x/m.safetensors", "plain", "a.hf/", "-O", "D", "-f", "huggingface")
    assert sorted(p.name for p in Path("D").iterdir()) == ["a.hf", "m.hf", "plain.hf"]


def test_a_store_is_named_as_it_is_written(bitnet, fake_api):
    calls = []
    fake_api(convert=lambda **asked: calls.append(asked["output"]) or {}, converted=None)
    done = bitnet("model", "convert", "hf://me/m@main", "b.hf", "-O", "gs://bucket/to/", "--json")
    assert calls == ["gs://bucket/to/m@main.bitnet", "gs://bucket/to/b.bitnet"], done.err
    assert not Path("gs:").exists()


def test_the_root_is_a_folder_like_any_other(bitnet, fake_api):
    calls = []
    record = {"outputs": [], "digest_before": DIGEST, "digest_after": DIGEST}
    fake_api(convert=lambda **asked: calls.append(asked["output"]) or record, converted=None)
    assert bitnet("model", "convert", "a.hf", "b.hf", "-O", "/").rc == 0
    assert calls == ["/a.bitnet", "/b.bitnet"]


def test_a_folder_named_by_dots_is_named_as_it_is_called(bitnet, api, monkeypatch):
    Path("here/in").mkdir(parents=True)
    monkeypatch.chdir("here/in")
    bitnet("model", "inspect", ".", "..", "-O", "R")
    assert sorted(p.name for p in Path("R").iterdir()) == ["here.json", "in.json"]


def test_records_of_looks_are_kept_and_skipped_while_they_hold(bitnet, api):
    line = ("model", "inspect", "a.hf", "b.hf", "-O", "records", "--json")
    first = bitnet(*line)
    kept = json.loads(Path("records/a.hf.json").read_text())
    assert kept["data"] == models(first)["a.hf"]["data"] and kept["command"] == "model inspect"
    assert {m["skipped"] for m in models(bitnet(*line)).values()} == {True}
    Path("b.hf").write_text("another model")
    assert [m["skipped"] for m in models(bitnet(*line)).values()] == [True, False]
    assert [m["skipped"] for m in models(bitnet(*line)).values()] == [True, True]
    # Other options, another look; and a table on top of it changes nothing.
    assert not models(bitnet(*line, "--show-layers"))["a.hf"]["skipped"]
    assert {m["skipped"] for m in models(bitnet(*line, "--force")).values()} == {False}


def test_a_failed_check_is_kept_with_its_exit_code_and_an_error_is_tried_again(bitnet, fake_api):
    finding = {"code": "weights.nan", "severity": "error", "tensor": "q", "fix": "do x"}
    Path("a").touch()
    calls = []

    def validate(model, **options):
        calls.append(model)
        if model == "away":
            raise NoInput("model.not_found", "`away` does not exist")
        return {"findings": [finding]}

    fake_api(validate=validate)
    line = ("model", "validate", "a", "away", "-O", "R", "--json")
    assert bitnet(*line).rc == 66
    again = bitnet(*line)
    assert again.rc == 66 and calls == ["a", "away", "away"]
    assert models(again)["a"]["skipped"] and models(again)["a"]["exit_code"] == 1
    assert [error["code"] for error in again.envelope["errors"]] == [
        "model.validate_failed",
        "model.not_found",
    ]


def test_a_file_that_is_no_record_of_ours_is_not_replaced(bitnet, api):
    Path("R").mkdir()
    Path("R/a.hf.json").write_text('{"thesis": 1}')
    done = bitnet("model", "inspect", "a.hf", "b.hf", "-O", "R", "--json")
    assert done.rc == 73 and models(done)["b.hf"]["ok"]
    assert models(done)["a.hf"]["errors"][0]["code"] == "batch.not_ours"
    assert Path("R/a.hf.json").read_text() == '{"thesis": 1}'
    assert bitnet("model", "inspect", "a.hf", "b.hf", "-O", "R", "--force").rc == 0


def test_a_manifest_gives_each_its_options(bitnet, api):
    Path("m.txt").write_text(
        'a.hf\n{"model": "b.hf", "output": "E.bitnet", "encoding": "master"}\n'
    )
    done = bitnet("model", "convert", "--manifest", "m.txt", "-O", "D", "--json")
    assert [m["output"] for m in models(done).values()] == ["D/a.bitnet", "E.bitnet"]
    assert api["convert"][1]["encoding"] == "master"
    piped = bitnet("model", "inspect", "--manifest", "-", "--json", stdin="a.hf\n")
    assert list(models(piped)) == ["a.hf"]  # a manifest of one is still a batch


@pytest.mark.parametrize(
    ("line", "rc", "words"),
    [
        ("convert a.hf b.hf -o x.bitnet", 2, "--output names one output"),
        ("convert a.hf b.hf", 2, "needs `--output`"),
        ("convert a.hf x/a.hf -O D", 2, "would both be written as `D/a.bitnet`"),
        ("convert a.hf x/A.hf -O D", 2, "would both be written"),
        ("convert a.hf -O a.hf", 73, "is no folder"),
        ("convert --manifest m.txt", 2, "nothing says where `a.hf` is written"),
        ("convert a.hf b.hf -O D -j 2 --dump-passes P", 2, "leave out --jobs"),
        ("convert a.hf b.hf -O D -j 0", 2, "below the least"),
        ("inspect", 2, "needs `--model`"),
        ("inspect a.hf x/a.hf -O R", 2, "in two calls"),
        ("inspect a.hf b.hf -O gs://b/records", 2, "a folder of this machine"),
        ("inspect --manifest nowhere", 66, "no manifest"),
        ("inspect --model=", 2, "the name is empty"),
        ("convert a.hf --output=", 2, "the name is empty"),
        ("convert a.hf b.hf --output-dir=", 2, "the name is empty"),
        ("convert a.hf -o D --manifest=", 2, "the name is empty"),
        ("convert a.hf -o D --settings=", 2, "the name is empty"),
        ("convert a.hf -o D --report=", 2, "the name is empty"),
        ("convert a.hf -o D --export-json=", 2, "the name is empty"),
        ("convert a.hf -o D --log-file=", 2, "the name is empty"),
        ("convert a.hf -o D --dump-passes=", 2, "the name is empty"),
    ],
)
def test_what_cannot_be(bitnet, api, line, rc, words):
    Path("m.txt").write_text("a.hf\n")
    done = bitnet("model", *line.split())
    assert done.rc == rc and words in done.err
    assert not Path("D").exists() or not list(Path("D").iterdir())


def test_people_see_a_row_for_each(bitnet, api):
    page = bitnet("model", "inspect", "a.hf", "nowhere").out
    assert "a.hf     done             bitnet" in page and "nowhere  model.not_found" in page
    assert "== a.hf" in bitnet("model", "inspect", "a.hf", "b.hf", "--show-layers").out
    rows = bitnet("model", "inspect", "a.hf", "b.hf", "--emit", "csv").out.splitlines()
    assert rows[0].startswith("model,output,ok,exit_code,skipped,data.") and len(rows) == 3


def test_a_stream_has_an_event_for_each(bitnet, api):
    lines = bitnet("model", "inspect", "a.hf", "b.hf", "--emit", "jsonl").out.splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["event"] for e in events] == ["model", "model", "result"]
    assert events[0]["model"] == "a.hf" and events[0]["data"]["parameters"] == 7


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(bitnet, fake_api):
    def stop(source, output, **options):
        if source == "b.hf":
            raise KeyboardInterrupt
        return converted_now(source, output)

    fake_api(convert=stop, converted=converted_before)
    done = bitnet("model", "convert", "a.hf", "b.hf", "c.hf", "-O", "D", "--json")
    assert done.rc == 130 and list(models(done)) == ["a.hf"]
    [error] = done.envelope["errors"]
    assert error["message"] == "interrupted: 1 of 3 models were done"
    assert error["hint"] == "run the same line again: what is done is skipped"


def test_a_person_is_asked_for_the_model_and_the_line_is_printed(bitnet, api):
    done = bitnet("model", "inspect", terminal=True, stdin="a.hf\n")
    assert done.rc == 0 and "running: bitnet model inspect --model=a.hf\n" in done.err


def test_a_model_that_is_skipped_keeps_its_warnings(bitnet, api, fake_api):
    fake_api(inspect=lambda model, **o: {**inspected(model), "warnings": ["odd"]})
    line = ("model", "inspect", "a.hf", "-O", "R", "--json")
    assert bitnet(*line).envelope["warnings"] == ["a.hf: odd"]
    again = bitnet(*line)
    assert models(again)["a.hf"]["skipped"] and models(again)["a.hf"]["warnings"] == ["odd"]
    assert again.envelope["warnings"] == ["a.hf: odd"]
    fake_api(converted={"outputs": [], "warnings": ["odd"]})
    done = bitnet("model", "convert", "a.hf", "-O", "D", "--json")
    assert models(done)["a.hf"]["skipped"] and done.envelope["warnings"] == ["a.hf: odd"]
    assert models(done)["a.hf"]["data"] == {"outputs": []}


def test_one_model_has_one_output(bitnet, api, monkeypatch):
    done = bitnet("model", "convert", "a.hf", "-o", "x.bitnet", "-O", "D", "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (2, "cli.clash")
    assert not Path("D").exists() and not Path("x.bitnet").exists()
    # What the settings say gives way to what was typed.
    monkeypatch.setenv("BITNET_OUTPUT_DIR", "D")
    assert bitnet("model", "convert", "a.hf", "-o", "x.bitnet").rc == 0
    assert Path("x.bitnet").exists() and not Path("D").exists()
    monkeypatch.setenv("BITNET_OUTPUT", "y.bitnet")
    assert bitnet("model", "convert", "a.hf").rc == 2
    assert bitnet("model", "convert", "a.hf", "-O", "E").rc == 0
    assert Path("E/a.bitnet").exists() and not Path("y.bitnet").exists()
