"""The bridge over argparse-dataclass: what it lacks works, what it does wrong is refused."""

# ruff: noqa: UP045, UP007
from dataclasses import dataclass, field
from typing import Literal, Optional, Union

import pytest

from bitnet_cli.args import Parser, as_texts, check
from bitnet_cli.fields import close_options, number, option, whole
from bitnet_jax.core.errors import UsageError


@dataclass
class Sample:
    first: Optional[str] = option("-a", "--first", "--alias", positional=True, help="h")
    second: Optional[str] = option(positional=True, help="h")
    max_count: int = option("-n", "--max-count", type=whole(1), default=3, help="h")
    share: float = option(type=number(0.0, 1.0, above=True), default=0.5, help="h")
    much: float = option(type=number(0.0), default=1.0, help="h")
    kind: Literal["one", "two"] = option(default="one", help="h")
    shape: Optional[str] = option(choices=("ring", "line"), help="h")
    force: bool = option("-F", "--force", default=False, help="h")
    stop: list[str] = option(default_factory=list, type=str, repeat=True, help="h")
    codes: list[int] = option(default_factory=list, type=int, repeat=True, commas=True, help="h")
    report: Optional[str] = option(nargs="?", const="-", help="h")
    loud: int = option("-v", "--loud", default=0, count=True, help="h")


def typed(*argv):
    return Parser(Sample, prog="bitnet sample").typed(argv)


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        ([], {}),  # nothing typed is nothing known: other layers of settings fill it
        (["--first", "x"], {"first": "x"}),
        (["--alias", "x"], {"first": "x"}),
        (["-a", "x"], {"first": "x"}),
        (["x", "y"], {"first": "x", "second": "y"}),
        (["--alias", "x", "y"], {"first": "x", "second": "y"}),
        # argparse alone takes `second` as absent at --force, and refuses `y`
        (["x", "--force", "y"], {"first": "x", "force": True, "second": "y"}),
        (["--force", "x"], {"first": "x", "force": True}),
        (["--", "-x"], {"first": "-x"}),
        (["-"], {"first": "-"}),
        (["--max-count=4"], {"max_count": 4}),
        (["-n4"], {"max_count": 4}),
        (["--max-count", "3"], {"max_count": 3}),  # the default, but typed
        (["--kind", "two"], {"kind": "two"}),
        (["--shape", "ring"], {"shape": "ring"}),
        (["--stop", "a,b", "--stop", "c"], {"stop": ["a,b", "c"]}),
        (["--codes", "1,2", "--codes", "3"], {"codes": [1, 2, 3]}),
        (["--report"], {"report": "-"}),
        (["--report", "x"], {"report": "x"}),
        (["-vv", "--loud"], {"loud": 3}),
        (["--share", "1e-1"], {"share": 0.1}),
    ],
)
def test_what_was_typed(argv, values):
    assert typed(*argv) == values


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--frist", "x"], "cli.unknown_option", "`--first`"),
        (["--max-cont=4"], "cli.unknown_option", "`--max-count`"),
        (["--max", "4"], "cli.unknown_option", None),  # no abbreviations
        (["-Q"], "cli.unknown_option", None),
        (["--kind", "tow"], "cli.bad_value", "did you mean `two`?"),
        (["--shape", "lin"], "cli.bad_value", "did you mean `line`?"),
        (["--max-count", "0"], "cli.bad_value", None),
        (["--max-count", "x"], "cli.bad_value", None),
        (["--share", "0"], "cli.bad_value", None),
        (["--share", "nan"], "cli.bad_value", None),
        (["--much", "inf"], "cli.bad_value", None),
        (["--much=-inf"], "cli.bad_value", None),
        (["--much", "1e999"], "cli.bad_value", None),
        (["--first"], "cli.bad_value", "--first=-value"),
        (["x", "y", "z"], "cli.unexpected_argument", "quotes"),
    ],
)
def test_a_mistake_is_a_usage_error(argv, code, words):
    with pytest.raises(UsageError) as caught:
        typed(*argv)
    assert caught.value.code == code
    assert words is None or words in caught.value.hint


def make(annotation, **keywords):
    """Returns an args class with one field of the given type."""
    space = {"x": option(help="h", **keywords), "__annotations__": {"x": annotation}}
    return dataclass(type("Bad", (), space))


@pytest.mark.parametrize(
    ("annotation", "keywords", "reason"),
    [
        ("int", {}, "annotations"),
        (int | None, {}, r"Optional\[X\]"),
        (Optional[bool], {}, "reads `false` as True"),
        (Optional[Literal["a"]], {}, "refuses every value"),
        (list[int], {"default_factory": list}, "repeat=True"),
        (Optional[list[int]], {}, "repeat=True"),
        (tuple[int, int], {}, "repeat=True"),
        (str, {"repeat": True}, "needs a list"),
        (Sample, {}, "nested"),
        (bool, {"default": True}, "starts as False"),
        (str, {"type": str}, None),
        (Union[int, None], {}, None),
    ],
)
def test_what_argparse_dataclass_reads_wrongly_is_refused(annotation, keywords, reason):
    if reason is None:
        check(make(annotation, **keywords))
    else:
        with pytest.raises(TypeError, match=reason):
            check(make(annotation, **keywords))


def test_slots_are_refused():
    @dataclass(slots=True)
    class Slotted:
        x: int = option(default=1, help="h")

    with pytest.raises(TypeError, match="slots"):
        check(Slotted)


def test_a_field_without_option_is_refused():
    @dataclass
    class Bare:
        x: int = 1

    with pytest.raises(TypeError, match="option"):
        check(Bare)


def test_a_field_outside_init_is_refused():
    @dataclass
    class Hidden:
        x: int = field(default=1, init=False, metadata={"help": "h"})

    with pytest.raises(TypeError, match="init=False"):
        check(Hidden)


def test_the_long_name_must_be_spelled():
    with pytest.raises(TypeError, match="--x"):
        check(
            dataclass(type("T", (), {"x": option("-x", help="h"), "__annotations__": {"x": str}}))
        )


def test_convert_reads_a_text_as_if_typed():
    parser = Parser(Sample)
    assert parser.convert(parser.fields["max_count"], ["7"]) == 7
    assert parser.convert(parser.fields["codes"], ["1,2", "3"]) == [1, 2, 3]
    with pytest.raises(UsageError):
        parser.convert(parser.fields["kind"], ["three"])


def test_as_texts_refuses_shapes_that_cannot_be_typed():
    fields = Parser(Sample).fields
    assert as_texts(fields["codes"], [1, 2]) == ["1", "2"]
    assert as_texts(fields["max_count"], 4) == ["4"]
    for name, value in (("max_count", [4]), ("codes", {"a": 1})):
        with pytest.raises(ValueError, match="stands where"):
            as_texts(fields[name], value)


def test_close_options_compares_without_the_dashes():
    assert close_options("--emt", ["--emit", "--quiet", "-e"]) == ["--emit"]
    assert close_options("--zzz", ["--emit", "--quiet"]) == []
