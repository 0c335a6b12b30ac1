"""The commands of `bitnet bench`: what people and continuous integration see."""

import json

import pytest

from bitnet_jax.bench.regression import bench_regression
from bitnet_jax.report.page import report_page
from tests.bench.records import compare_record, profile_record, run_record, validate_record
from tests.report.reading import check_numbers, parse, record


@pytest.fixture
def regression(fake_api):
    def install(speed, **machine):
        fake_api(bench_regression=bench_regression(run_record(20), run_record(speed, **machine)))

    return install


def test_run_shows_the_limits_and_a_row_for_each_phase_and_batch(bitnet, fake_api):
    fake_api(bench_run=run_record())
    page = bitnet("bench", "run", "m").out
    assert "30 GB/s" in page and "1 TOP/s" in page and "Test CPU, 2 cores" in page
    assert page.count("prefill") == page.count("decode") == 2
    assert "J/token" not in page  # it was not read
    metered = run_record()
    metered["results"][0]["joules_per_token"] = 0.5
    fake_api(bench_run=metered)
    assert "J/token" in bitnet("bench", "run", "m").out


def test_the_pages_show_the_records_numbers_alone(bitnet, fake_api, tmp_path):
    slower = bench_regression(run_record(20), run_record(15))
    fake_api(
        bench_run=run_record(),
        bench_regression=slower,
        bench_compare=compare_record(),
        bench_profile=profile_record(),
        bench_validate=validate_record(),
        report_page=report_page,
    )
    lines = (("run", "m"), ("regression", "a", "b"), ("compare", "a", "b"), ("validate",))
    lines += (("profile", "m"),)
    for words in lines:
        done = bitnet("bench", *words, "--report", "page.html", "--force", "--json")
        root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert record(root) == done.envelope, done.err
        assert check_numbers(root, done.envelope["data"]) > 0
        assert root.all("svg")


def test_several_models_have_a_record_each(bitnet, fake_api, tmp_path):
    fake_api(bench_run=lambda model, **asked: {**run_record(), "model": model})
    for name in ("a.bitnet", "b.bitnet"):
        (tmp_path / name).touch()
    assert bitnet("bench", "run", "--model", "a.bitnet", "b.bitnet", "-O", "results").rc == 0
    records = [json.loads((tmp_path / f"results/{n}.bitnet.json").read_text()) for n in "ab"]
    assert [one["data"]["model"] for one in records] == ["a.bitnet", "b.bitnet"]
    assert bench_regression(*(tmp_path / f"results/{n}.bitnet.json" for n in "ab"))["passed"]


def test_what_there_is_not_is_refused(bitnet, fake_api):
    fake_api(bench_run=run_record())
    wrong = "--head int7|--threads 0|--layout t2|-b 0|-b 1,-2|-d gppu|-n 0|--probe-mib 1"
    for words in map(str.split, wrong.split("|")):
        assert bitnet("bench", "run", "m", *words).rc == 2


def test_a_regression_exits_with_one_and_is_told_to_ci(bitnet, regression):
    regression(18)
    done = bitnet("bench", "regression", "a.json", "b.json", "--json")
    assert done.rc == 1
    assert [error["code"] for error in done.envelope["errors"]] == ["bench.regression"]
    assert "decode, batch 4" in done.envelope["errors"][0]["message"]
    lines = bitnet("bench", "regression", "a.json", "b.json", "--emit", "github").out.splitlines()
    assert len(lines) == 4 and all(line.startswith("::error title=bitnet bench") for line in lines)
    assert "decode, batch 1: slower: 0.900 times" in lines[2]
    suite = bitnet("bench", "regression", "a.json", "b.json", "--emit", "junit").out
    assert 'tests="4" failures="4" errors="0"' in suite


def test_no_regression_passes_and_tells_ci_nothing(bitnet, regression):
    regression(18, gb_s=27, tops=0.9)
    done = bitnet("bench", "regression", "a.json", "b.json")
    assert done.rc == 0 and done.out.count("slower, as the machine is") == 4
    assert bitnet("bench", "regression", "a.json", "b.json", "--emit", "github").out == ""
    suite = bitnet("bench", "regression", "a.json", "b.json", "--emit", "junit").out
    assert 'tests="4" failures="0" errors="0"' in suite


def test_compare_shows_who_ran_and_how_many_times_as_fast(bitnet, fake_api):
    fake_api(bench_compare=compare_record())
    page = bitnet("bench", "compare", "a.bitnet,b.gguf", "--runtimes", "bitnet-jax,llama.cpp").out
    assert "b.gguf (llama.cpp)" in page and "0.25" in page and "5,000" in page
    record = compare_record()
    for row in record["results"]:
        for name in ("tokens_per_second", "latency_seconds", "speedup", "speedup_interval"):
            row.pop(name)
    fake_api(bench_compare=record)
    assert "speedup" not in bitnet("bench", "compare", "a,b", "--metrics", "memory").out


def test_a_runtime_that_is_announced_says_so(bitnet, fake_api):
    fake_api(bench_compare=compare_record())
    done = bitnet("bench", "compare", "a,b", "--runtimes", "bitnet.cpp", "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (69, "cli.not_built")
    assert bitnet("bench", "compare", "a,b", "--runtimes", "ollama").rc == 2


def test_a_machine_that_is_not_fit_exits_with_one_and_says_what_to_do(bitnet, fake_api, tmp_path):
    fake_api(bench_validate=validate_record(), report_page=report_page)
    done = bitnet("bench", "validate", "--comprehensive", "--output", "report.html", "--json")
    assert done.rc == 1 and (tmp_path / "report.html").is_file()
    assert [error["code"] for error in done.envelope["errors"]] == ["bench.machine_unfit"]
    assert "end what else runs" in bitnet("bench", "validate").out
    assert "end what else runs" in bitnet("bench", "validate", "--emit", "github").out


def test_the_time_is_told_before_the_checks(bitnet, fake_api):
    def validate(*, say, **asked):
        say("10 checks: about 25 seconds")
        return validate_record()

    fake_api(bench_validate=validate)
    done = bitnet("bench", "validate", "-Q")
    assert "about 25 seconds" in done.err
    assert "about" not in bitnet("bench", "validate", "-Q", "--quiet").err


def test_profile_shows_layers_ops_instructions_and_what_was_asked(bitnet, fake_api):
    fake_api(bench_profile=profile_record())
    page = bitnet("bench", "profile", "m", "-I", "1").out
    for words in ("layer 0", "bitnet_ternary_matmul", "layers.0.mlp.up_proj", "77", "trace/x.xpl"):
        assert words in page
    less = profile_record()
    less.pop("memory")
    fake_api(bench_profile={**less, "trace": [], "layers": [], "ops": [], "instructions": []})
    page = bitnet("bench", "profile", "m").out
    assert "largest" not in page and "trace" not in page and "one run" in page
    assert bitnet("bench", "profile", "m", "-I", "4y5").rc == 2


def test_a_real_run_a_real_profile_and_their_pages(bitnet, tmp_path):
    assert bitnet("model", "create", "tiny", "--layers", "1", "-o", "m.bitnet").rc == 0
    asked = ["-n", "5", "--prompt-tokens", "8", "--decode-tokens", "2", "--probe-mib", "32"]
    for line in (["run", "m.bitnet", *asked, "--export-json", "r.json"], ["profile", "m.bitnet"]):
        more = ["-I", "1", "--profile-memory"] if line[0] == "profile" else []
        done = bitnet("bench", *line, *more, "--report", "page.html", "--force", "--json")
        assert done.rc == 0, done.err
        root = parse((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert record(root) == done.envelope
        assert check_numbers(root, done.envelope["data"]) > 50
    same = bitnet("bench", "regression", "r.json", "r.json", "--json")
    assert same.rc == 0 and same.envelope["data"]["passed"]
    slower = json.loads((tmp_path / "r.json").read_text())
    for row in slower["results"]:
        speed = row["tokens_per_second"]
        speed["values"] = [value / 50 for value in speed["values"]]
    (tmp_path / "slow.json").write_text(json.dumps(slower))
    assert bitnet("bench", "regression", "r.json", "slow.json").rc == 1
