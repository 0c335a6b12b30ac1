"""The help pages."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from bitnet_cli import help as help_pages
from bitnet_cli import registry, topics
from bitnet_cli.config import LIBRARY_ENV, OTHER_ENV
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
    words = " ".join(page.out.split())
    for command in registry.COMMANDS:
        if command.group == group:
            assert f"  {command.name} " in page.out and command.help in words
    assert registry.GROUP_FIRST[group][0] in page.out


@pytest.mark.parametrize("command", [*BUILT, *PLANNED])
def test_a_command_page_has_its_line_every_option_its_variable_and_two_examples(bitnet, command):
    page = bitnet(*registry.words(command).split(), "--help")
    assert page.rc == 0 and page.err == ""
    head, _, examples = page.out.partition("\nexamples\n")
    assert " ".join(head.split()).startswith(f"bitnet {registry.words(command)}: {command.help}")
    assert ("Not built yet in this version" in head) == (command.target is None)
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
def test_a_command_that_is_not_built_checks_its_options_and_says_so(bitnet, command):
    for example in registry.load(command)[0].EXAMPLES:
        run = bitnet(*shlex.split(example)[1:], "--emit=json")
        assert run.rc == 69
        assert run.envelope["errors"][0]["code"] == "cli.not_built"
        assert registry.words(command) in run.envelope["errors"][0]["message"]
        assert run.envelope["command"] == registry.words(command)
    words = registry.words(command).split()
    assert bitnet(*words, "--jsno").err.count("`--json`") == 1
    # Neither a terminal nor --debug makes it ask, or show a traceback.
    assert bitnet(*words, terminal=True).rc == 69


def test_defaults_are_printed(bitnet):
    page = " ".join(bitnet("serve", "generate", "--help").out.split())
    assert "stop after this many tokens [default: 64; env: BITNET_MAX_TOKENS]" in page
    assert "one of: table, json, jsonl, yaml, csv, junit, github; default: table" in page


def test_the_page_fits_a_narrow_terminal(bitnet, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    page = bitnet("model", "convert", "--help").out
    body, _, _ = page.partition("\nexamples\n")  # those are whole lines, to be copied
    assert max(map(len, body.splitlines())) <= 44


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("page", ["", "model", "bench", "dev", "help", "help convert"])
def test_every_page_fits_and_says_the_same_at_any_width(bitnet, monkeypatch, width, page):
    wide = bitnet(*page.split()).out
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = bitnet(*page.split()).out
    assert narrow.split() == wide.split()
    # What may be longer is one word, or a line to be copied.
    long = [line for line in narrow.splitlines() if len(line) > min(width, 100)]
    assert all(line.startswith("  bitnet ") or len(line.split()) == 1 for line in long), long


def test_pages_are_plain_ascii(bitnet):
    """So that they look the same in any locale."""
    for page in ("", "model", "quant", "model convert --help", "bench run --help", "help"):
        assert bitnet(*page.split()).out.isascii()
    assert all(bitnet("help", name).out.isascii() for name in topics.TOPICS)


def test_topics(bitnet):
    page = bitnet("help", "exit-codes")
    assert all(f"{code:>3}  {meaning}" in page.out for code, meaning in MEANING.items())
    assert "BITNET_" in bitnet("help", "settings").out
    for name, topic in topics.TOPICS.items():
        page = bitnet("help", name)
        assert page.rc == 0 and topic.about in page.out.splitlines()[0]
        assert name in bitnet("help").out
    for word, name in topics.SAME.items():
        assert bitnet("help", word).out == bitnet("help", name).out


def test_a_word_is_looked_for_in_commands_options_topics_and_errors(bitnet):
    page = bitnet("help", "scales")
    heads = [line for line in page.out.splitlines() if line and not line.startswith(" ")]
    assert heads == ["`scales` occurs in", "commands", "options", "topics", "errors"]
    assert "bitnet help formats" in page.out and "bitnet quant optimize" in page.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("convert", "bitnet model convert"),
        ("DIGESTS", "bitnet model convert"),
        ("hyperopt", "--optimizer"),  # a value of a choice
        ("BITNET_TOP_K", "--top-k"),
        ("--sampler", "--optimizer"),
        ("model.not_found", "exit 66"),
        ("gguf", "bitnet help formats"),
        ("tune scales", "bitnet quant optimize"),
        ("quantize", "bitnet quant convert"),  # by its alias
        ("exit-code", "bitnet help exit-codes"),
    ],
)
def test_what_a_word_finds(bitnet, words, line):
    done = bitnet("help", *words.split())
    assert done.rc == 0 and line in done.out


def test_a_word_that_is_everywhere_shows_the_first_and_counts_the_rest(bitnet):
    page = bitnet("help", "the").out
    assert "more: a second word narrows it" in page and len(page.splitlines()) < 150


def test_no_word_at_all_is_the_first_page(bitnet):
    assert bitnet("help", "", "--").out == bitnet("help").out


def test_every_error_can_be_asked_for(bitnet):
    table = Path(help_pages.__file__).with_name("errors.tsv").read_text().splitlines()
    assert len(table) > 100
    code = table[7].partition("\t")[0]
    assert code in bitnet("help", code).out


def test_the_environment_page_names_every_variable_of_the_library(bitnet):
    page = bitnet("help", "environment").out
    words = " ".join(page.split())
    for table in (LIBRARY_ENV, OTHER_ENV):
        assert all(f"\n  {name}\n" in page for name in table)
        assert all(" ".join(what.split()) in words for what in table.values())
    assert "BITNET_MAX_TOKENS" in page and page != bitnet("help", "settings").out


def test_what_is_not_built_is_not_promised(bitnet):
    lines = bitnet().out.splitlines()
    marked = [line.split()[0] for line in lines if line.endswith("(not built yet)")]
    assert marked == []  # every group has a command that runs
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
        ("exit-cdoes", "did you mean `bitnet help exit-codes`?"),
        ("quickstrt", "did you mean `bitnet quickstart`?"),
        ("model convrt", "did you mean `bitnet model convert`?"),
        ("nosuch", "topics: batch, devices, environment, exit-codes, formats, "),
        ("model zzzz", "topics: "),
    ],
)
def test_an_unknown_topic(bitnet, words, hint):
    done = bitnet("help", *words.split())
    assert done.rc == 2 and f"hint: {hint}" in done.err


def test_version(bitnet):
    assert bitnet("--version").out.startswith("bitnet ")


def test_force_names_the_options_that_the_command_has(bitnet):
    for command in registry.COMMANDS:
        fields = registry.load(command)[1].__dataclass_fields__
        if "force" in fields and "--output-dir" in fields["force"].metadata["help"]:
            assert "output_dir" in fields, registry.words(command)
    assert "--output-dir" not in bitnet("dev", "check", "--help").out
