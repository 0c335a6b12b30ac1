"""Manifests: what they may say, and what is said of one that is wrong."""

import io

import pytest

from bitnet_cli.commands.model.convert import ConvertArgs
from bitnet_cli.commands.model.inspect import InspectArgs
from bitnet_cli.commands.model.validate import ValidateArgs
from bitnet_cli.manifest import read
from bitnet_jax.core.errors import BadData, NoInput

B = {"model": "b.hf", "output": "b.bitnet", "allow": ["x", "y"]}


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        ("m.txt", "a.hf\n\n# not this\n  b c.hf  \r\n", [{"model": "a.hf"}, {"model": "b c.hf"}]),
        ("m.txt", "\ufeffa.hf", [{"model": "a.hf"}]),
        (
            "m",
            '{"model": "b.hf", "output": "b.bitnet", "allow": ["x", "y"]}\na.hf',
            [B, {"model": "a.hf"}],
        ),
        ("m.jsonl", '{"input": "a.hf", "strict": true}', [{"model": "a.hf", "strict": True}]),
        (
            "m.yaml",
            "- a.hf\n- {model: b.hf, output: b.bitnet, allow: 'x,y'}",
            [{"model": "a.hf"}, B],
        ),
        ("m.json", '["a.hf"]', [{"model": "a.hf"}]),
    ],
)
def test_what_it_says(tmp_path, name, text, entries):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read(str(tmp_path / name), ConvertArgs, io.StringIO()) == entries


def test_a_dash_reads_stdin():
    assert read("-", InspectArgs, io.StringIO("a\nb\n")) == [{"model": "a"}, {"model": "b"}]


BOMB = "- &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"- &{one} [{', '.join([f'*{other}'] * 10)}]\n"
    for other, one in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        ("m.txt", "", "manifest.empty", "names no model"),
        ("m.txt", "# nothing\n", "manifest.empty", "names no model"),
        ("m.yaml", "[]", "manifest.empty", "names no model"),
        ("m.txt", "a\n{'model': 1}", "manifest.syntax", "m.txt:2"),
        ("m.txt", "{" * 3000 + '"a":' * 3000, "manifest.syntax", "m.txt:1"),
        ("m.txt", '{"model":' * 3000, "manifest.syntax", "m.txt:1"),
        ("m.yaml", "a: b", "manifest.syntax", "a list of models"),
        ("m.yaml", "- a\n- b: [", "manifest.syntax", "m.yaml"),
        ("m.yaml", "[" * 700, "manifest.syntax", "m.yaml:1:65: nested more than 64 deep"),
        ("m.yaml", "- {model: a, model: b}", "manifest.syntax", "m.yaml:1:14"),
        ("m.yaml", "- !!python/name:os.system x", "manifest.syntax", "could name code"),
        ("m.yaml", BOMB, "manifest.syntax", "its aliases expand to"),
        ("m.yaml", "- " + "x" * 4_000_001, "manifest.not_text", "longer than 4000000 bytes"),
        ("m.txt", '{"model": "a", "model": "b"}', "manifest.syntax", "m.txt:1: a key stands twice"),
        ("m.yaml", "- 7", "manifest.entry", "entry 1"),
        ("m.txt", "a\0b", "manifest.not_text", "m.txt:1"),
        ("m.txt", '{"output": "x"}', "manifest.entry", "must name one model"),
        ("m.txt", '{"model": ["a", "b"]}', "manifest.entry", "must name one model"),
        ("m.txt", '{"model": ""}', "manifest.bad_value", "the name is empty"),
        ("m.txt", '{"modle": "a"}', "manifest.unknown_key", "did you mean `model`?"),
        ("m.txt", '{"model": "a", "jobs": 2}', "manifest.unknown_key", "`jobs`"),
        ("m.txt", '{"model": "a", "manifest": "b"}', "manifest.unknown_key", "`manifest`"),
        (
            "m.txt",
            '{"model": "a", "format": "bitnt"}',
            "manifest.bad_value",
            "did you mean `bitnet`?",
        ),
        ("m.txt", '{"model": "a", "strict": "no"}', "manifest.bad_value", "neither true nor false"),
        ("m.txt", '{"model": "a", "output": {"b": 1}}', "manifest.bad_value", "a table stands"),
    ],
)
def test_what_is_said_of_a_wrong_one(tmp_path, name, text, code, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadData) as caught:
        read(str(tmp_path / name), ConvertArgs, io.StringIO())
    assert caught.value.code == code
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_json_may_hold_tabs(tmp_path):
    (tmp_path / "m.json").write_text('[\n\t{"model":\t"a"}\n]')
    assert read(str(tmp_path / "m.json"), ConvertArgs, io.StringIO()) == [{"model": "a"}]


def test_a_page_is_of_them_all_and_none_of_one(tmp_path):
    (tmp_path / "m").write_text('{"model": "a", "output": "a.html"}')
    with pytest.raises(BadData, match="`output` is no option of one model"):
        read(str(tmp_path / "m"), ValidateArgs, io.StringIO())


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "m").write_bytes(b"\xffmodel")
    with pytest.raises(BadData, match="m:1:1: not UTF-8"):
        read(str(tmp_path / "m"), ConvertArgs, io.StringIO())


def test_one_that_is_absent(tmp_path):
    with pytest.raises(NoInput, match="no manifest"):
        read(str(tmp_path / "m"), ConvertArgs, io.StringIO())
