"""From words to a command, with a suggestion for every mistake that has one."""

import pytest

from bitnet_cli.route import having, route
from bitnet_jax.core.errors import UsageError


@pytest.mark.parametrize(
    ("line", "kind", "command", "rest"),
    [
        ("", "guide", None, ""),
        ("--help", "guide", None, ""),
        ("--version", "version", None, ""),
        ("model", "group", None, ""),
        ("model --help", "group", None, ""),
        ("help", "help", None, ""),
        ("help model convert", "help", None, "model convert"),
        ("model convert a -o b", "command", ("model", "convert"), "a -o b"),
        ("--json model inspect x", "command", ("model", "inspect"), "--json x"),
        ("model --json inspect x", "command", ("model", "inspect"), "--json x"),
        ("--emit json model inspect x", "command", ("model", "inspect"), "--emit json x"),
        ("--emit=json -vv model inspect", "command", ("model", "inspect"), "--emit=json -vv"),
        ("-e json model inspect", "command", ("model", "inspect"), "-e json"),
        ("quickstart --minutes 1", "command", ("", "quickstart"), "--minutes 1"),
        ("chat m", "command", ("serve", "chat"), "m"),
        ("quant train m", "command", ("train", "qat"), "m"),
        ("dev info", "command", ("dev", "check"), ""),
    ],
)
def test_route(line, kind, command, rest):
    plan = route(line.split())
    assert plan.kind == kind
    assert (plan.command and (plan.command.group, plan.command.name)) == command
    assert plan.argv == rest.split()


@pytest.mark.parametrize(
    ("line", "code", "suggestion"),
    [
        ("modle inspect", "cli.unknown_group", "`bitnet model`"),
        ("quickstrt", "cli.unknown_group", "`bitnet quickstart`"),
        ("chatt", "cli.unknown_group", "`bitnet chat`"),
        ("convert", "cli.unknown_group", "`bitnet model convert`"),
        ("model convrt", "cli.unknown_command", "`bitnet model convert`"),
        ("model chat", "cli.unknown_command", "`bitnet serve chat`"),
        ("dev inof", "cli.unknown_command", "`bitnet dev info`"),
        ("zzzzzz", "cli.unknown_group", "`bitnet` lists"),
        ("nosuch", "cli.unknown_group", "`bitnet` lists"),  # not `bench`
        ("model zzzzzz", "cli.unknown_command", "`bitnet model` lists"),
        ("--jsn model inspect", "cli.unknown_option", "`--json`"),
        ("--show-layers model inspect", "cli.unknown_option", "stand after it"),
        ("m.bitnet hello", "cli.unknown_group", "`bitnet model inspect m.bitnet`"),
        ("./m", "cli.unknown_group", "`bitnet model inspect ./m`"),
        ("--json", "cli.no_command", "--help"),
        ("--json model", "cli.no_command", "bitnet model --help"),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(line, code, suggestion):
    with pytest.raises(UsageError) as caught:
        route(line.split())
    assert caught.value.code == code
    assert suggestion in caught.value.hint


@pytest.mark.parametrize(
    ("spelling", "commands"),
    [
        ("--show-layers", ["model inspect"]),
        ("--max-tokens", ["serve generate", "serve chat"]),
        ("--optimize-for", ["model export", "quant optimize"]),
        ("--nosuch", []),
    ],
)
def test_the_commands_that_have_an_option(spelling, commands):
    assert having(spelling) == commands


def test_a_typo_never_falls_through_to_a_command():
    with pytest.raises(UsageError):
        route(["m.bitnet", "hello"])
