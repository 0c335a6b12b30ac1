"""--report: the page of any command, from the record that --json prints."""

# ruff: noqa: UP045
import json
from dataclasses import dataclass
from typing import Optional

import pytest

from bitnet_cli.fields import option
from bitnet_cli.options import page_option
from bitnet_cli.report import SPELLED, page
from bitnet_cli.result import Chart, CommandResult, Figures, Measure, Pairs, Table, Text, show
from bitnet_jax.core import errors
from tests.report.reading import check_numbers, parse, record

DATA = {
    "name": "<b>m</b>",
    "loss": 2.3456789,
    "rows": [{"a": 1, "b": 0.5}, {"a": 20000, "b": None}],
}


@dataclass
class FakeArgs:
    name: Optional[str] = option(positional=True, help="a name")
    force: bool = option(default=False, help="replace")


@dataclass
class CheckArgs:
    output: Optional[str] = page_option()
    force: bool = option(default=False, help="replace")


def fine(args, ctx):
    ctx.warn("odd")
    return CommandResult(data=DATA)


def test_a_record_without_sections_makes_a_page_of_itself(bitnet, fake_command, tmp_path):
    fake_command(fine, FakeArgs)
    done = bitnet("dev", "fake", "--report", "out.html", "--json")
    root = parse((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert record(root) == done.envelope and done.envelope["warnings"] == ["odd"]
    assert check_numbers(root, done.envelope["data"]) == 4
    assert root.all("h1")[0].text == "bitnet dev fake" and "warning odd" in root.text
    assert "wrote out.html" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["out.html"]


def test_the_table_is_printed_as_without_it(bitnet, fake_command):
    fake_command(fine, FakeArgs)
    assert bitnet("dev", "fake", "-R", "a.html").out == bitnet("dev", "fake").out
    assert "wrote" not in bitnet("dev", "fake", "-R", "b.html", "--quiet").err


def test_it_is_never_overwritten_without_force_and_that_is_said_first(
    bitnet, fake_command, tmp_path
):
    ran = []
    fake_command(lambda a, c: ran.append(1) or CommandResult(data={"n": len(ran)}), FakeArgs)
    assert bitnet("dev", "fake", "--report", "out.html").rc == 0
    first = (tmp_path / "out.html").read_text()
    again = bitnet("dev", "fake", "--report", "out.html", "--json")
    assert again.rc == 73 and again.envelope["errors"][0]["code"] == "io.exists"
    assert len(ran) == 1 and (tmp_path / "out.html").read_text() == first
    assert bitnet("dev", "fake", "--report", "out.html", "--force").rc == 0
    assert record(parse((tmp_path / "out.html").read_text()))["data"] == {"n": 2}


@pytest.mark.parametrize("name", ["model.bitnet", "report", "report.json"])
def test_a_page_is_named_as_one(bitnet, fake_command, name, tmp_path):
    fake_command(fine, FakeArgs)
    done = bitnet("dev", "fake", "--report", name, "--force", "--json")
    (error,) = done.envelope["errors"]
    assert done.rc == 2 and error["code"] == "cli.report_name"
    assert f"{name.partition('.')[0]}.html" in error["hint"] and not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_said_before_the_command_runs(bitnet, fake_command):
    fake_command(lambda a, c: pytest.fail("ran"), FakeArgs)
    assert bitnet("dev", "fake", "--report", "no/where.html").rc == 66


def test_a_folder_is_no_page(bitnet, fake_command, tmp_path):
    fake_command(lambda a, c: pytest.fail("ran"), FakeArgs)
    (tmp_path / "a.html").mkdir()
    done = bitnet("dev", "fake", "--report", "a.html", "--force", "--json")
    assert done.rc == 73 and done.envelope["errors"][0]["code"] == "io.not_file"


def test_the_output_of_a_check_is_its_page(bitnet, fake_command, tmp_path):
    fake_command(fine, CheckArgs)
    assert bitnet("dev", "fake", "--output", "a.html").rc == 0
    assert bitnet("dev", "fake", "--report", "b.html").rc == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert bitnet("dev", "fake", "-o", "c.html", "--report", "c.html").rc == 0
    clash = bitnet("dev", "fake", "-o", "d.html", "--report", "e.html", "--json")
    assert clash.rc == 2 and clash.envelope["errors"][0]["code"] == "cli.clash"


def test_a_failed_check_has_a_page_that_says_so(bitnet, fake_command, tmp_path):
    def run(args, ctx):
        error = errors.CheckFailed("a.b", "too <far> off", "come nearer")
        return CommandResult(data=DATA).fail(error)

    fake_command(run, CheckArgs)
    assert bitnet("dev", "fake", "-o", "a.html").rc == 1
    root = parse((tmp_path / "a.html").read_text())
    assert "✗ failed, exit code 1" in root.text
    assert "error a.b too <far> off" in root.text and "hint: come nearer" in root.text


def test_the_record_is_printed_whatever_became_of_its_page(
    bitnet, fake_command, tmp_path, monkeypatch
):
    def full(result, command, file, *, force):
        raise errors.IOFailure("io.disk_full", "no space", "free some")

    fake_command(fine, FakeArgs)
    monkeypatch.setattr("bitnet_cli.session.write_page", full)
    done = bitnet("dev", "fake", "--report", "a.html", "--json")
    assert done.rc == 74 == done.envelope["exit_code"] and done.envelope["data"] == DATA
    assert [error["code"] for error in done.envelope["errors"]] == ["io.disk_full"]
    assert "wrote" not in done.err and not list(tmp_path.iterdir())


def test_a_command_that_raises_writes_no_page(bitnet, fake_command, tmp_path):
    def run(args, ctx):
        raise errors.BadData("a.b", "broken")

    fake_command(run, FakeArgs)
    assert bitnet("dev", "fake", "--report", "a.html").rc == 65
    assert not list(tmp_path.iterdir())


def test_the_environment_and_the_workspace_ask_for_a_page(
    bitnet, fake_command, tmp_path, monkeypatch
):
    fake_command(fine, FakeArgs)
    monkeypatch.setenv("BITNET_REPORT", "env.html")
    assert bitnet("dev", "fake").rc == 0 and (tmp_path / "env.html").exists()


def test_every_kind_of_section_stands_on_the_page():
    chart = Chart("bars", "Chart", {"categories": ["x"], "series": [{"name": "s", "values": [7]}]})
    sections = [
        Text("words", "Words"),
        Figures([("loss", Measure(2.5, "nats", "small"))]),
        Pairs([("a", 1)], "Pairs"),
        Table(["c"], [[3]], "Table"),
        chart,
    ]
    assert {type(section) for section in sections} == set(SPELLED)
    root = parse(page(CommandResult(data={"v": [2.5, 1, 3, 7]}, sections=sections), "x y"))
    assert [head.text for head in root.all("h2")] == ["Words", "Pairs", "Table", "Chart"]
    assert check_numbers(root, record(root)["data"]) == 4
    assert "2.5 nats small" in root.text


def test_the_page_of_its_own_is_made_only_when_asked_for(bitnet, fake_command, tmp_path):
    made = []

    def own(data):
        made.append(data)
        return [Text("own words")]

    fake_command(
        lambda a, c: CommandResult(data={"a": 1}, sections=[], page=own, subject="S"), FakeArgs
    )
    bitnet("dev", "fake")
    assert not made
    bitnet("dev", "fake", "--report", "a.html")
    root = parse((tmp_path / "a.html").read_text())
    assert made == [{"a": 1}] and "own words" in root.text and root.all("h1")[0].text == "S"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_shows_no_chart_and_every_measure(bitnet, fake_command, terminal):
    rows = [("loss", Measure(2.5, "nats", "small")), ("none", Measure(None))]
    sections = [Figures(rows), Chart("bars", "Chart", {}), Table(["a"], [[Measure(1, "s")]])]
    fake_command(lambda a, c: CommandResult(data={}, sections=sections), FakeArgs)
    out = bitnet("dev", "fake", terminal=terminal).out
    assert "loss  2.5 nats (small)" in out and "1 s" in out and "Chart" not in out


def test_a_measure_is_shown_with_its_unit():
    assert show(Measure(1234, "bytes")) == "1,234 bytes"
    assert show(Measure(None, "", "why")) == "- (why)"


def test_the_page_is_one_file_whatever_json_says(bitnet, fake_command, tmp_path):
    fake_command(fine, FakeArgs)
    done = bitnet("dev", "fake", "--report", "a.html", "-x", "a.json")
    root = parse((tmp_path / "a.html").read_text())
    assert done.rc == 0
    assert record(root)["data"] == json.loads((tmp_path / "a.json").read_text()) == DATA


def test_every_command_can_replace_its_page(built_commands):
    for command, _, cls in built_commands:
        assert "force" in cls.__dataclass_fields__, command
