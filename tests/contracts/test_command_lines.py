"""Every line that is promised parses, word for word, and what is not built yet counts down."""

from __future__ import annotations

import shlex

import pytest

from bitnet_cli import registry
from bitnet_cli.args import Parser
from bitnet_cli.main import _page
from bitnet_cli.options import GlobalArgs
from bitnet_cli.planned import check
from bitnet_cli.route import route
from bitnet_jax.core.errors import Unavailable
from tests.contracts.command_lines import LINES, PAGES, WAITING

ALL = [line for lines in LINES.values() for line in lines]

# How many commands, and how many options of built commands, are announced and not built yet.
# Lower them with each that is built; they never rise, for nothing is announced that is not here.
COMMANDS_NOT_BUILT = 25
OPTIONS_NOT_BUILT = 3
# Of the lines, how many do not run yet.
LINES_NOT_BUILT = 51


def parsed(line):
    """The command of a line and the values that were typed; raises what a user would see."""
    plan = route(shlex.split(line)[1:])
    assert plan.kind == "command"
    _, cls = registry.load(plan.command)
    parser = Parser(GlobalArgs, cls, prog=registry.words(plan.command))
    return plan.command, parser, parser.typed(plan.argv)


def is_built(line):
    """Whether a line would run."""
    from bitnet_cli.config import Setting

    try:
        command, parser, values = parsed(line)
        typed = dict.fromkeys(parser.fields, Setting(None, "default"))
        typed |= {name: Setting(value, "command line") for name, value in values.items()}
        check(command, parser.fields, typed)
    except Unavailable as error:
        assert error.code == "cli.not_built"
        return False
    return True


@pytest.mark.parametrize("line", ALL)
def test_it_parses_word_for_word(line):
    command, parser, values = parsed(line)
    absent = [
        name
        for name, field in parser.fields.items()
        if field.metadata.get("needed") and name not in values
        if not any(other in values for other in field.metadata.get("unless", ()))
    ]
    assert not absent, f"the line would not do: {absent}"
    words = shlex.split(line)
    assert all(value is not None and value != [] for value in values.values())
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= set(
        parser.spelled
    )


def test_every_command_and_every_alias_has_a_line():
    spoken = {tuple(shlex.split(line)[1:3]) for line in ALL}
    for command in registry.COMMANDS:
        words = tuple(registry.words(command).split())
        assert words in spoken or words in {pair[:1] for pair in spoken}, words
    for group, name in registry.ALIASES:
        words = (group, name) if group else (name,)
        assert words in spoken or words in {pair[:1] for pair in spoken}, words


@pytest.mark.parametrize("line", PAGES)
def test_a_page_comes_for_it(line):
    assert _page(route(shlex.split(line)[1:]))


def test_what_is_not_built_yet_counts_down():
    commands = [registry.words(c) for c in registry.COMMANDS if c.target is None]
    options = [
        f"{registry.words(command)} {name}"
        for command in registry.built()
        for name, field in Parser(registry.load(command)[1]).fields.items()
        if not field.metadata.get("built", True)
    ]
    lines = [line for line in ALL if line in WAITING or not is_built(line)]
    found = (len(commands), len(options), len(lines))
    stale = "\n".join(
        ("the numbers in this file are stale; not built are:", *commands, *options, *lines)
    )
    assert found == (COMMANDS_NOT_BUILT, OPTIONS_NOT_BUILT, LINES_NOT_BUILT), stale


def test_what_waits_for_an_input_is_a_line_that_parses():
    assert set(WAITING) <= set(ALL)
    assert all(is_built(line) for line in WAITING), "its command is not built: no need to list it"


def test_a_planned_class_stands_for_a_command_that_is_not_built():
    from importlib import import_module

    for group in registry.GROUPS:
        waiting = {c.name for c in registry.COMMANDS if c.group == group and c.target is None}
        if waiting:
            planned = import_module(f"bitnet_cli.commands.{group}._planned").PLANNED
            assert set(planned) == waiting, f"commands/{group}/_planned.py"
