"""The help pages."""

import dataclasses

import pytest

from bitnet_cli import registry
from bitnet_cli.config import LIBRARY_ENV
from bitnet_cli.exit_codes import MEANING
from bitnet_cli.fields import env_name, long_name
from bitnet_cli.options import GlobalArgs

BUILT = [pytest.param(c, id=registry.words(c)) for c in registry.built()]
PLANNED = [pytest.param(c, id=registry.words(c)) for c in registry.COMMANDS if not c.target]


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_page_says_what_to_run_first_and_names_every_group(bitnet, argv):
    page = bitnet(*argv)
    assert page.rc == 0 and page.err == ""
    assert page.out.index("start here") < page.out.index("groups")
    assert "bitnet quickstart" in page.out
    assert all(f"  {name} " in page.out for name in registry.GROUPS)


@pytest.mark.parametrize("group", registry.GROUPS)
def test_a_group_lists_its_commands_and_its_first_step(bitnet, group):
    page = bitnet(group)
    assert page.rc == 0
    assert page.out == bitnet(group, "--help").out == bitnet("help", group).out
    for command in registry.COMMANDS:
        if command.group == group:
            assert f"  {command.name} " in page.out and command.help in page.out
    assert registry.GROUP_FIRST[group][0] in page.out


@pytest.mark.parametrize("command", BUILT)
def test_a_command_page_has_its_line_every_option_its_variable_and_two_examples(bitnet, command):
    page = bitnet(*registry.words(command).split(), "--help")
    assert page.rc == 0 and page.err == ""
    head, _, examples = page.out.partition("\nexamples\n")
    assert command.help in head.splitlines()[0]
    assert len(examples.splitlines()) >= 2
    words = " ".join(head.split())
    _, cls = registry.load(command)
    for field in [*dataclasses.fields(cls), *dataclasses.fields(GlobalArgs)]:
        assert f"{long_name(field)}" in head
        assert f"env: {env_name(field)}" in words
        assert field.metadata["help"] in words
    assert "MISSING" not in page.out


@pytest.mark.parametrize("command", BUILT)
def test_help_stands_anywhere_and_needs_nothing_else(bitnet, command):
    words = registry.words(command).split()
    assert bitnet("--help", *words).out == bitnet(*words, "--nonsense", "-h").out
    assert bitnet("help", *words).rc == 0


@pytest.mark.parametrize("command", PLANNED)
def test_a_command_that_is_not_built_says_so(bitnet, command):
    words = registry.words(command).split()
    page = bitnet(*words, "--help")
    assert page.rc == 0 and "Not built yet" in page.out
    run = bitnet(*words, "--json", "whatever")
    assert run.rc == 69
    assert run.envelope["errors"][0]["code"] == "cli.not_built"
    assert registry.words(command) in run.envelope["errors"][0]["message"]
    assert run.envelope["command"] == registry.words(command)


def test_defaults_are_printed(bitnet):
    page = " ".join(bitnet("serve", "generate", "--help").out.split())
    assert "stop after this many tokens [default: 64; env: BITNET_MAX_TOKENS]" in page
    assert "one of: table, json, jsonl, yaml, csv, junit, github; default: table" in page


def test_the_page_fits_a_narrow_terminal(bitnet, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    page = bitnet("model", "convert", "--help").out
    body = [line for line in page.splitlines() if line.startswith(" " * 10)]
    assert max(map(len, body)) <= 44


def test_topics(bitnet):
    page = bitnet("help", "exit-codes")
    assert all(f"{code:>3}  {meaning}" in page.out for code, meaning in MEANING.items())
    assert "BITNET_" in bitnet("help", "settings").out
    wrong = bitnet("help", "exit-code")
    assert wrong.rc == 2 and "hint" in wrong.err


def test_the_environment_page_names_every_variable_of_the_library(bitnet):
    page = bitnet("help", "environment").out
    words = " ".join(page.split())
    assert all(f"\n  {name}\n" in page for name in LIBRARY_ENV)
    assert all(" ".join(what.split()) in words for what in LIBRARY_ENV.values())
    assert "BITNET_MAX_TOKENS" in page and page != bitnet("help", "settings").out


def test_what_is_not_built_is_not_promised(bitnet):
    lines = bitnet().out.splitlines()
    marked = [line.split()[0] for line in lines if line.endswith("(not built yet)")]
    assert marked == ["bench"]
    assert "COMMAND --help" not in bitnet("bench").out
    assert "COMMAND --help" in bitnet("quant").out  # by its alias of `train qat`
    assert "HTTP" not in "\n".join(lines)


def test_a_command_without_options_has_no_empty_heading(bitnet, fake_command):
    @dataclasses.dataclass
    class NoArgs:
        """Takes only the options of every command."""

    fake_command(lambda args, ctx: None, NoArgs)
    page = bitnet("dev", "fake", "--help").out
    assert "\noptions\n" not in page and "\noptions of every command\n" in page


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("exit-code", "did you mean `bitnet help exit-codes`?"),
        ("quickstrt", "did you mean `bitnet quickstart`?"),
        ("convert", "did you mean `bitnet model convert`"),
        ("model convrt", "did you mean `bitnet model convert`?"),
        ("nosuch", "topics: exit-codes, settings, environment; groups: model, quant, "),
        ("model zzzz", "topics: "),
    ],
)
def test_an_unknown_topic(bitnet, words, hint):
    done = bitnet("help", *words.split())
    assert done.rc == 2 and f"hint: {hint}" in done.err


def test_version(bitnet):
    assert bitnet("--version").out.startswith("bitnet ")
