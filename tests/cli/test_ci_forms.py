"""--emit github and junit, from any record."""

import re
from xml.etree import ElementTree

import pytest

from bitnet_cli.ci_forms import github, junit
from bitnet_cli.envelope import envelope


def record(data=None, warnings=(), errors=(), exit_code=0):
    return envelope(
        "model validate",
        ok=exit_code == 0,
        exit_code=exit_code,
        data=data or {},
        warnings=list(warnings),
        errors=[{"code": c, "message": m, "hint": h} for c, m, h in errors],
    )


FINDINGS = {
    "model": "m, 1:2.bitnet",
    "findings": [
        {"code": "weights.all_zero", "severity": "error", "tensor": "layers.0.q", "fix": "mend it",
         "message": "100% are\nzero"},
        {"code": "scale.large", "severity": "warning", "tensor": None, "fix": "look",
         "message": "<large> & \"odd\""},
        {"code": "tokenizer.note", "severity": "info", "tensor": None, "fix": None, "message": "x"},
    ],
}  # fmt: skip
FAILED = [("model.validate_failed", "1 finding(s)", "each says what to do")]


def test_github_annotations_of_findings():
    text = github(record(FINDINGS, errors=FAILED, exit_code=1))
    assert text.splitlines() == [
        "::error title=bitnet model validate (weights.all_zero),file=m%2C 1%3A2.bitnet"
        "::layers.0.q: 100%25 are%0Azero%0Ahint: mend it",
        "::warning title=bitnet model validate (scale.large),file=m%2C 1%3A2.bitnet"
        '::<large> & "odd"%0Ahint: look',
        "::notice title=bitnet model validate (tokenizer.note),file=m%2C 1%3A2.bitnet::x",
    ]


def test_github_annotations_of_errors_and_warnings_with_their_place(tmp_path):
    file = tmp_path / "r.yaml"
    file.touch()
    errors = [("train.config_key", f"`{file}:3:5`: unknown setting", "did you mean x?")]
    assert github(record(warnings=["careful"], errors=errors, exit_code=78)).splitlines() == [
        "::warning title=bitnet model validate::careful",
        f"::error title=bitnet model validate (train.config_key),file={file},line=3,col=5"
        f"::`{file}:3:5`: unknown setting%0Ahint: did you mean x?",
    ]
    other = [("a.b", "time 12:30: late", None)]
    assert ",file=" not in github(record(errors=other, exit_code=65))


def test_nothing_in_a_message_begins_a_command_of_its_own():
    text = github(record(warnings=["a\r\n::error::b\x1b[31m"]))
    assert text == "::warning title=bitnet model validate::a\\x0d%0A::error::b\\x1b[31m\n"
    assert github(record()) == ""


def parsed(text):
    suites = ElementTree.fromstring(text.encode())
    (suite,) = suites
    assert suites.tag == "testsuites" and suite.tag == "testsuite"
    cases = list(suite)
    assert {case.tag for case in cases} == {"testcase"}
    counts = {"tests": len(cases)}
    for kind in ("failure", "error"):
        counts[f"{kind}s"] = sum(case.find(kind) is not None for case in cases)
    for element in (suites, suite):
        assert {name: int(element.get(name)) for name in counts} == counts
    return suite, cases


def test_junit_has_a_case_for_each_finding():
    suite, cases = parsed(junit(record(FINDINGS, errors=FAILED, exit_code=1), "utf-8"))
    assert suite.get("name") == "bitnet model validate"
    assert [case.get("name") for case in cases] == [
        "weights.all_zero layers.0.q", "scale.large", "tokenizer.note",
    ]  # fmt: skip
    failure = cases[0].find("failure")
    assert failure.get("type") == "weights.all_zero" and failure.get("message") == "100% are zero"
    assert failure.text == "100% are\nzero\nhint: mend it"
    assert cases[1].find("system-out").text == 'warning: <large> & "odd"\nhint: look'
    assert cases[0].get("file") == "m, 1:2.bitnet"


def test_junit_of_an_error_is_an_error_and_of_a_failed_check_a_failure():
    _, (case,) = parsed(junit(record(errors=[("a.b", "m", "h")], exit_code=65), "utf-8"))
    assert case.find("error").get("type") == "a.b" and case.find("failure") is None
    _, (case,) = parsed(junit(record(errors=[("a.b", "m", None)], exit_code=1), "utf-8"))
    assert case.find("failure").text == "m"


def test_junit_of_rows_that_passed_or_not():
    rows = [{"name": "decode", "passed": True}, {"name": "prefill", "passed": False, "loss": 0.5}]
    _, cases = parsed(junit(record({"results": rows}, exit_code=1), "utf-8"))
    assert [case.get("name") for case in cases] == ["decode", "prefill"]
    assert cases[0].find("failure") is None and "loss 0.5" in cases[1].find("failure").text


def test_junit_of_success_is_one_case():
    _, (case,) = parsed(junit(record(), "utf-8"))
    assert list(case) == []


@pytest.mark.parametrize("encoding", ["utf-8", "us-ascii"])
def test_junit_holds_whatever_a_name_holds(encoding):
    odd = "é模\x00\x07\x1b[0m]]>\ud800\uffff\x85&<>'\""
    data = {"model": odd, "findings": [{"severity": "error", "code": odd, "message": odd}]}
    text = junit(record(data, exit_code=1), encoding)
    text.encode(encoding)
    _, (case,) = parsed(text)
    assert "é模" in case.find("failure").text and "\\x1b" in case.find("failure").text
    assert not re.search("[\x00-\x08\x0b-\x1f]", text)


def test_a_command_emits_them(bitnet):
    done = bitnet("model", "inspect", "nope", "--emit", "junit")
    assert done.rc == 66 and parsed(done.out)[1][0].get("name") == "model.not_found"
    for argv in (["mdoel"], ["model", "inpsect"], ["model", "inspect", "--emti"]):
        done = bitnet(*argv, "--emit=github")
        assert done.rc == 2 and done.out.startswith("::error title=bitnet ")


def test_findings_of_several_models_name_the_model_as_their_file(bitnet, fake_api):
    row = {"code": "weights.nan", "severity": "error", "tensor": "q", "fix": None, "message": "x"}
    fake_api(validate=lambda model, **options: {"model": "/abs/" + model, "findings": [row]})
    done = bitnet("model", "validate", "a", "b", "--emit", "github")
    assert done.rc == 1 and done.out.splitlines() == [
        f"::error title=bitnet model validate (weights.nan),file={model}::q: x" for model in "ab"
    ]
    _, cases = parsed(bitnet("model", "validate", "a", "b", "--emit", "junit").out)
    assert [case.get("file") for case in cases] == ["a", "b"]
    assert all(case.find("failure") is not None for case in cases)
