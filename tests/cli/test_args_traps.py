"""Each trap of argparse-dataclass: what it does by itself, and what our bridge does instead.

The first half of a test shows the trap on the library as installed; when an update of it mends
one, that half fails, and the bridge over it can go. The second half is what `bitnet` does.
"""

# ruff: noqa: UP045
import argparse
import dataclasses
import enum
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Optional

import argparse_dataclass as library
import pytest

from bitnet_cli.args import Parser, check
from bitnet_cli.fields import option, whole
from bitnet_jax.core.errors import UsageError


class Shell(enum.Enum):
    BASH = "bash"
    ZSH = "zsh"


def ours(cls, *argv):
    return Parser(cls, prog="bitnet sample").typed(argv)


def refused(cls, reason):
    with pytest.raises(TypeError, match=reason):
        check(cls)


def of(annotation, **keywords):
    """Returns a class with the one option `x`, declared as ours are."""
    space = {"x": option(help="h", **keywords), "__annotations__": {"x": annotation}}
    return dataclass(type("Sample", (), space))


def bare(annotation, default=None, **metadata):
    """Returns a class with the one option `x`, declared as the library's page says."""
    metadata = {"metadata": metadata} if metadata else {}
    value = field(default=default, **metadata)
    return dataclass(type("Sample", (), {"x": value, "__annotations__": {"x": annotation}}))


def test_the_version_is_the_one_whose_traps_these_are():
    assert version("argparse-dataclass") == "2.0.0"


def test_paths_enums_literals_and_short_names_work_in_both():
    @dataclass
    class Sample:
        path: Path = option("-p", "--path", default=Path(), help="h")
        maybe: Optional[Path] = option(help="h")
        shell: Shell = option(default=Shell.BASH, help="h")
        kind: Literal["a", "b"] = option(default="a", help="h")

    argv = ["-p", "x", "--maybe", "y", "--shell", "zsh", "--kind", "b"]
    wanted = {"path": Path("x"), "maybe": Path("y"), "shell": Shell.ZSH, "kind": "b"}
    assert vars(library.parse_args(Sample, argv)) == wanted
    assert ours(Sample, *argv) == wanted


def test_optional_literal_refuses_every_value():
    with pytest.raises(SystemExit):
        library.parse_args(bare(Optional[Literal["a", "b"]]), ["--x", "a"])
    refused(of(Optional[Literal["a", "b"]]), "refuses every value")
    assert ours(of(Optional[str], choices=("a", "b")), "--x", "a") == {"x": "a"}


def test_a_union_with_a_bar_is_not_callable():
    with pytest.raises(ValueError, match="not callable"):
        library.parse_args(bare(int | None), ["--x", "1"])
    refused(of(int | None), r"Optional\[X\]")
    assert ours(of(Optional[int], type=int), "--x", "1") == {"x": 1}


def test_postponed_annotations_are_texts_and_not_callable():
    with pytest.raises(ValueError, match="not callable"):
        library.parse_args(bare("int"), ["--x", "1"])
    refused(of("int"), "annotations")


def test_a_list_without_nargs_becomes_its_letters():
    assert library.parse_args(bare(list[int]), ["--x", "123"]).x == ["1", "2", "3"]
    refused(of(list[int], default_factory=list), "repeat=True")
    assert ours(of(list[int], default_factory=list, type=int, repeat=True), "--x", "123") == {
        "x": [123]
    }


def test_an_optional_list_with_nargs_nests_its_letters():
    cls = bare(Optional[list[int]], nargs="+")
    assert library.parse_args(cls, ["--x", "12", "2"]).x == [["1", "2"], ["2"]]
    refused(of(Optional[list[int]], nargs="+"), "repeat=True")
    several = of(list[int], default_factory=list, type=int, repeat=True, nargs="+")
    assert ours(several, "--x", "12", "2") == {"x": [12, 2]}


def test_a_list_with_commas_has_the_type_and_the_choices_of_one_element():
    cls = of(list[int], default_factory=list, type=whole(1), repeat=True, commas=True)
    assert ours(cls, "--x", "1,4, 8", "--x=16") == {"x": [1, 4, 8, 16]}
    with pytest.raises(UsageError, match="below the least"):
        ours(cls, "--x", "1,0")
    words = of(list[str], default_factory=list, type=str, repeat=True, commas=True, choices="ab")
    assert ours(words, "--x", "a,b") == {"x": ["a", "b"]}
    with pytest.raises(UsageError, match="`c` is not a value"):
        ours(words, "--x", "a,c")


def test_an_optional_flag_reads_false_as_true():
    assert library.parse_args(bare(Optional[bool]), ["--x", "false"]).x is True
    refused(of(Optional[bool]), "reads `false` as True")


def test_a_flag_that_starts_as_true_loses_its_name():
    with pytest.raises(SystemExit):
        library.parse_args(bare(bool, True), ["--x"])
    refused(of(bool, default=True), "starts as False")
    assert ours(of(bool, default=False), "--x") == {"x": True}


def test_an_action_is_dropped():
    with pytest.raises(SystemExit):  # it still wants a value
        library.parse_args(bare(int, 0, action="count"), ["--x", "--x"])
    refused(bare(int, 0, action="count", help="h"), "drops `action`")
    assert ours(of(int, default=0, count=True), "--x", "--x") == {"x": 2}
    assert ours(of(list[str], default_factory=list, type=str, repeat=True), "--x=a", "--x=b") == {
        "x": ["a", "b"]
    }


def test_a_nested_dataclass_is_given_the_text():
    @dataclass
    class Inner:
        a: int = 1

    cls = bare(Inner, Inner)
    nested = library.parse_args(cls, ["--x", "7"]).x
    assert nested == Inner("7")  # an int, it says, and it holds a text
    refused(of(Inner), "nested")


def test_slots_leave_nothing_to_read():
    @dataclass(slots=True)
    class Slotted:
        x: int = option(default=1, help="h")

    with pytest.raises(TypeError, match="__dict__"):
        library.ArgumentParser(Slotted).parse_args(["--x", "2"])
    refused(Slotted, "slots")


def test_a_field_outside_init_breaks_once_its_option_is_given():
    @dataclass
    class Hidden:
        x: int = field(default=1, init=False, metadata={"help": "h"})

    with pytest.raises(TypeError):
        library.parse_args(Hidden, ["--x", "2"])
    refused(Hidden, "init=False")


def test_post_init_runs_twice_and_its_error_is_a_traceback():
    ran = []

    @dataclass
    class Checked:
        x: int = option(default=1, help="h")

        def __post_init__(self):
            ran.append(self.x)
            if self.x == 0:
                raise ValueError("zero")

    library.ArgumentParser(Checked).parse_args(["--x", "2"])
    assert ran == [2, 2]
    with pytest.raises(ValueError, match="zero"):
        library.parse_args(Checked, ["--x", "0"])
    refused(Checked, "__post_init__")


def test_the_help_formatter_with_defaults_prints_a_sentinel():
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    cls = of(int, default=7)
    library._add_dataclass_options(cls, parser)
    assert "MISSING" in parser.format_help()
    from bitnet_cli.help import _option

    [(text)] = _option(dataclasses.fields(cls)[0], 100)[1:]
    assert "default: 7" in text and "MISSING" not in text


def test_nested_parsers_break_with_set_defaults():
    """Why `route` finds the command, and each has a parser of its own."""
    cls = of(int, default=1)
    root = argparse.ArgumentParser()
    sub = root.add_subparsers(parser_class=library.ArgumentParser)
    sub.add_parser("a", options_class=cls).set_defaults(command="a")
    with pytest.raises(TypeError):
        root.parse_args(["a", "--x", "2"])


def test_what_was_not_typed_stays_missing():
    """What the layers of settings stand on: a private function of the library."""
    parser = argparse.ArgumentParser()
    library._add_dataclass_options(of(int, default=7), parser)
    assert parser.parse_args([]).x is dataclasses.MISSING
    assert parser.parse_args(["--x", "7"]).x == 7
    assert ours(of(int, default=7)) == {}
    assert ours(of(int, default=7), "--x", "7") == {"x": 7}


def test_abbreviations_are_taken_silently():
    @dataclass
    class Sample:
        format: Optional[str] = option(help="h")

    assert library.parse_args(Sample, ["--for", "a"]).format == "a"
    with pytest.raises(UsageError, match="no option `--for`"):
        ours(Sample, "--for", "a")


def test_required_cannot_be_met_by_a_settings_file():
    with pytest.raises(SystemExit):
        library.parse_args(bare(int, dataclasses.MISSING), [])
    refused(bare(int, dataclasses.MISSING, help="h"), "needed=True")
    refused(bare(bool, False, required=True, help="h"), "needed=True")
    assert ours(of(Optional[str], needed=True)) == {}


@pytest.mark.parametrize("key", ["keep_underscores", "group"])
def test_keys_of_the_library_that_we_do_not_read_are_refused(key):
    refused(bare(int, 0, help="h", **{key: True}), key)


def test_nothing_may_follow_a_list_of_words():
    @dataclass
    class Sample:
        many: list[str] = option(
            default_factory=list, type=str, repeat=True, positional=True, help="h"
        )
        one: Optional[str] = option(positional=True, help="h")

    refused(Sample, "no word can follow")


def test_an_absent_positional_is_taken_as_absent_at_the_first_option():
    @dataclass
    class Positional:
        first: Optional[str] = field(default=None, metadata={"args": ["first"], "nargs": "?"})
        second: Optional[str] = field(default=None, metadata={"args": ["second"], "nargs": "?"})
        force: bool = False

    with pytest.raises(SystemExit):
        library.parse_args(Positional, ["a", "--force", "b"])

    @dataclass
    class Sample:
        first: Optional[str] = option(positional=True, help="h")
        second: Optional[str] = option(positional=True, help="h")
        force: bool = option(default=False, help="h")

    assert ours(Sample, "a", "--force", "b") == {"first": "a", "second": "b", "force": True}
