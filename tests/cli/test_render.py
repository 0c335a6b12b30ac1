"""The same record in every format."""

import csv
import io
import json

import pytest
from ruamel.yaml import YAML

from bitnet_cli.context import Streams
from bitnet_cli.render import RENDERERS, aligned, render, talk
from bitnet_cli.result import CommandResult, Pairs, Table, Text, sections_of, show, table_of
from bitnet_cli.stdio import Output, Talk

RESULT = CommandResult(
    data={
        "name": "m",
        "layers": [
            {"name": "q", "shape": [2, 3], "trits": {"zero": 0.5}, "n": 1},
            {"name": "=k", "shape": [4], "trits": {"zero": 0.25}, "n": 20},
        ],
    },
    warnings=["careful"],
    errors=[{"code": "a.b", "message": "broken", "hint": "mend it"}],
)


class Stream(io.StringIO):
    def __init__(self, terminal=False):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def streams(terminal=False, **env):
    out, err = Output(Stream(terminal)), Talk(Stream(terminal))
    return Streams(Stream(), out, err, {"TERM": "xterm", **env})


def rendered(emit, result=RESULT, **options):
    out = streams(**options)
    render(result, "model inspect", emit, out)
    return out.stdout.getvalue()


def test_json_yaml_and_jsonl_hold_the_same_envelope():
    envelope = json.loads(rendered("json"))
    assert YAML(typ="safe").load(rendered("yaml")) == envelope
    assert json.loads(rendered("jsonl")) == {**envelope, "event": "result"}
    assert envelope["data"] == RESULT.data
    assert envelope["errors"] == RESULT.errors


def test_csv_prints_the_list_of_the_record_flat():
    rows = list(csv.DictReader(io.StringIO(rendered("csv"))))
    assert [row["name"] for row in rows] == ["q", "'=k"]  # a formula is made a text
    assert [row["trits.zero"] for row in rows] == ["0.5", "0.25"]
    assert rows[0]["shape"] == "[2, 3]"


def test_csv_of_a_record_without_a_list_is_one_row():
    assert rendered("csv", CommandResult(data={"a": 1, "b": {"c": 2}})) == "a,b.c\n1,2\n"


def test_csv_of_the_named_list():
    data = {"first": [{"a": 1}], "second": [{"b": 2}]}
    assert rendered("csv", CommandResult(data=data, rows="second")) == "b\n2\n"


def test_a_record_without_sections_lays_itself_out():
    text = rendered("table")
    assert text.splitlines()[0] == "name  m"
    assert "trits.zero" in text and "0.25" in text


def test_a_table_in_a_pipe_is_aligned_text_without_colour():
    table = table_of([{"name": "a", "n": 5}, {"name": "bb", "n": 1000}])
    assert aligned(table) == ["name      n", "a         5", "bb    1,000"]
    assert "\x1b" not in rendered("table")


def test_a_table_on_a_terminal_is_drawn_and_takes_no_markup_from_names():
    result = CommandResult(sections=[Table(["[bold]name"], [["[red]x[/red]"]])])
    assert "[red]x[/red]" in rendered("table", result, terminal=True)


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color(env, coloured):
    out = streams(terminal=True, **env)
    talk(RESULT, out, quiet=False, said=[])
    assert ("\x1b[" in out.stderr.getvalue()) == coloured
    section = CommandResult(sections=[Pairs([("a", 1)], title="head"), Table(["n"], [[1]], "t")])
    render(section, "x", "table", out)
    text = out.stdout.getvalue()
    assert ("\x1b[1mhead" in text) == coloured
    assert coloured or "\x1b[3" not in text.replace("\x1b[3m", "")  # italics are no colour


def test_an_error_is_a_code_a_message_an_empty_line_and_a_hint():
    out = streams()
    talk(RESULT, out, quiet=False, said=[])
    assert out.stderr.getvalue() == ("warning: careful\nerror[a.b]: broken\n\nhint: mend it\n")


def test_quiet_keeps_errors_only_and_a_warning_is_said_once():
    out = streams()
    talk(RESULT, out, quiet=True, said=[])
    assert "careful" not in out.stderr.getvalue() and "broken" in out.stderr.getvalue()
    out = streams()
    talk(RESULT, out, quiet=False, said=["careful"])
    assert "careful" not in out.stderr.getvalue()


@pytest.mark.parametrize("emit", list(RENDERERS))
def test_an_empty_record_renders(emit):
    rendered(emit, CommandResult())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (12345, "12,345"),
        (0.3333333, "0.33333"),
        ([1, 2], "1, 2"),
        ([], "none"),
        ([{"a": 1}], "a=1"),
        ("a\x1b[2Jb\n", "a\\x1b[2Jb\\x0a"),  # a name in a file must not drive the terminal
    ],
)
def test_show(value, text):
    assert show(value) == text


def test_sections_of_any_record():
    sections = sections_of({"a": 1, "b": {"c": {"d": 2}}, "e": [{"f": 3}], "g": []})
    assert sections[0] == Pairs([("a", 1), ("g", [])])
    assert sections[1] == Pairs([("c.d", 2)], title="b")
    assert sections[2] == Table(["f"], [[3]], "e")


def test_text_ends_in_one_newline():
    assert rendered("table", CommandResult(sections=[Text("x\n\n")])) == "x\n"


def test_of_takes_warnings_out_of_the_record():
    result = CommandResult.of({"a": 1, "warnings": ("w",)})
    assert (result.data, result.warnings) == ({"a": 1}, ["w"])
    with pytest.raises(TypeError, match="mapping"):
        CommandResult.of([1])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=x", "\uff1dx"])
def test_no_cell_of_a_csv_is_a_formula_also_in_its_head(text):
    rows = list(
        csv.reader(io.StringIO(rendered("csv", CommandResult(data={text: text})), newline=""))
    )
    assert rows == [[f"'{text}"], [f"'{text}"]]
    # A number is one, and stays it.
    assert rendered("csv", CommandResult(data={"a": -1})) == "a\n-1\n"


ODD = "a\x1b[2J\u202eb\u2066c"
SHOWN = "a\\x1b[2J\\u202eb\\u2066c"


@pytest.mark.parametrize(
    "section",
    [
        Text(f"{ODD}\nnext", ODD),
        Pairs([(ODD, ODD)], ODD),
        Table([ODD], [[ODD]], ODD),
        Table([ODD] * 9, [[ODD] * 9], ODD),  # too wide for the terminal: blocks
    ],
    ids=["text", "pairs", "table", "wide"],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_drives_the_terminal(section, terminal):
    to = streams(terminal, NO_COLOR="1")
    page = RENDERERS["table"](CommandResult(sections=[section]), "x", to)
    page = page.replace("\x1b[1m", "").replace("\x1b[3m", "").replace("\x1b[0m", "")
    assert SHOWN in page and not set(ODD) & set(page) - set(SHOWN)
