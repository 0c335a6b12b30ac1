"""`bitnet quant`: what is asked of the library, what people see, what a script reads."""

import json

import pytest

from bitnet_cli.pages import quant_analyze, quant_convert, quant_validate
from bitnet_jax.report.page import report_page
from tests.workflows.quant_records import analyze_record, convert_record, validate_record


@pytest.fixture
def api(fake_api):
    def answer(**records):
        return fake_api(**records, report_page=report_page)

    return answer


def test_analyze_shows_the_price_each_linear_and_which_to_keep(bitnet, api):
    api(quant_analyze=analyze_record())
    out = bitnet("quant", "analyze", "model.hf").out
    assert "change of the loss" in out and "0.75" in out and "95 %: 0.675 to 0.825" in out
    assert "layers.0.mlp.down_proj" in out and "KL gain if kept" in out
    assert "these halve the KL (measured gain)" in out and "unknown" in out


def test_a_quick_analysis_shows_no_column_of_what_it_has_not(bitnet, api):
    api(quant_analyze=analyze_record(quick=True))
    out = bitnet("quant", "analyze", "model.hf", "--quick").out
    assert "predicted KL alone" in out and "KL gain if kept" not in out
    assert "predicted gain)" in out


def test_metrics_are_written_as_they_stand_in_the_record(bitnet, api, tmp_path):
    api(quant_analyze=analyze_record())
    line = ("quant", "analyze", "model.hf", "--export-metrics", "m.json", "--export-json", "n.json")
    assert bitnet(*line).rc == 0
    assert json.loads((tmp_path / "m.json").read_text()) == analyze_record()
    assert (tmp_path / "n.json").read_text() == (tmp_path / "m.json").read_text()
    again = bitnet(*line)
    assert again.rc == 73 and "exists" in again.err
    assert bitnet(*line, "--force").rc == 0


def test_metrics_never_take_a_models_place(bitnet, api):
    calls = api(quant_analyze=analyze_record())
    done = bitnet("quant", "analyze", "model.hf", "--export-metrics", "model.bitnet")
    assert done.rc == 2 and "cli.export_name" in done.err
    assert "quant_analyze" not in (calls or {})


def test_validate_passes_or_fails_with_its_record(bitnet, api):
    api(quant_validate=validate_record())
    assert bitnet("quant", "validate", "q.bitnet", "o.hf").rc == 0
    api(quant_validate=validate_record(passed=False))
    done = bitnet("quant", "validate", "q.bitnet", "o.hf", "--json")
    assert done.rc == 1 and done.envelope["exit_code"] == 1
    data = done.envelope["data"]
    assert (data["metric"], data["value"], data["tolerance"], data["passed"]) == (
        "ppl", 0.5, 0.03, False,
    )  # fmt: skip
    (error,) = done.envelope["errors"]
    assert error["code"] == "quant.tolerance_exceeded" and "0.45 to 0.55" in error["message"]


@pytest.mark.parametrize("tolerance", ["-1", "nan", "1e999", "many"])
def test_a_tolerance_that_is_none_is_a_matter_of_usage(bitnet, tolerance):
    assert bitnet("quant", "validate", "a", "b", f"--tolerance={tolerance}").rc == 2


def test_convert_shows_the_loss_before_and_after(bitnet, api):
    api(quant_convert=convert_record())
    out = bitnet("quant", "convert", "model.hf", "-o", "model.bitnet").out
    assert "loss of the original" in out and "loss of the model" in out and "absmean" in out


def test_a_batch_quantizes_each_into_the_folder(bitnet, fake_api):
    calls = []

    def convert(**asked):
        calls.append((asked["source"], asked["output"], asked["precision"], asked["method"]))
        return convert_record()

    fake_api(quant_convert=convert, quant_converted=lambda *a, **k: None)
    done = bitnet("model", "quantize", "a.hf", "b.hf", "-O", "out", "-P", "4", "--method", "gptq")
    assert done.rc == 0, done.err
    assert calls == [
        ("a.hf", "out/a.bitnet", "4", "gptq"),
        ("b.hf", "out/b.bitnet", "4", "gptq"),
    ]


def test_pages_show_what_is_in_the_record():
    for page, records in (
        (quant_analyze.page, (analyze_record(), analyze_record(quick=True))),
        (quant_convert.page, (convert_record(),)),
        (quant_validate.page, (validate_record(), validate_record(False, "kl"))),
    ):
        for record in records:
            assert page(record)
