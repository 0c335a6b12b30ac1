"""The table of commands, and what every command must keep."""

import ast
import dataclasses
import shlex
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import pytest

import bitnet_cli
from bitnet_cli import registry
from bitnet_cli.args import check
from bitnet_cli.fields import long_name, named, option_strings, spellings
from bitnet_cli.options import DEVICES, LETTERS, GlobalArgs

COMMANDS = [pytest.param(c, id=registry.words(c)) for c in registry.COMMANDS]
BUILT = [pytest.param(c, id=registry.words(c)) for c in registry.built()]


def test_every_row_is_unique_and_in_a_known_group():
    places = [(c.group, c.name) for c in registry.COMMANDS]
    assert len(set(places)) == len(places)
    assert {group for group, _ in places} - {""} == set(registry.GROUPS)
    assert set(registry.GROUP_FIRST) == set(registry.GROUPS)


def test_aliases_lead_to_commands_and_hide_none():
    for alias, target in registry.ALIASES.items():
        assert registry.find(*alias) == registry.find(*target) is not None
        assert alias not in {(c.group, c.name) for c in registry.COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_line_is_one_line(command):
    assert command.help and "\n" not in command.help and len(command.help) <= 90
    assert not command.help.endswith(".")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_sound_args_and_two_examples(command):
    module, cls = registry.load(command)
    check(cls)
    assert cls.__doc__ == f"Options of `bitnet {registry.words(command)}`."
    assert len(set(module.EXAMPLES)) == len(module.EXAMPLES) >= 2


@pytest.mark.parametrize("command", BUILT)
def test_a_built_command_is_a_file_with_run(command):
    module, cls = registry.load(command)
    assert callable(module.run) and module.__doc__ and cls.__module__ == module.__name__
    place = command.group or "commands"
    assert Path(module.__file__).parent.name == place


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_is_a_path_refuses_an_empty_name(command):
    _, cls = registry.load(command)
    for field in (*dataclasses.fields(GlobalArgs), *dataclasses.fields(cls)):
        if field.metadata.get("metavar") in ("FILE", "DIR", "PATH"):
            assert field.metadata.get("type") is named, field.name


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_do_not_clash_with_those_of_every_command(command):
    _, cls = registry.load(command)
    assert not set(option_strings(cls)) & set(option_strings(GlobalArgs))


def every_option():
    """(command's words, field) for every option there is."""
    for command in registry.COMMANDS:
        for field in dataclasses.fields(registry.load(command)[1]):
            yield registry.words(command), field
    for field in dataclasses.fields(GlobalArgs):
        yield "", field


# What a letter means, where the option's own name says it otherwise.
SAME = {"max-tokens": "count"}


def longs(field):
    names = {name[2:] for name in spellings(field) if name.startswith("--")}
    return names | {SAME[name] for name in names if name in SAME}


def shorts(field):
    return [name[1:] for name in spellings(field) if not name.startswith("--")]


def test_one_letter_has_one_meaning():
    for words, field in every_option():
        for letter in shorts(field):
            assert LETTERS[letter] in longs(field), f"-{letter} of {long_name(field)} in {words}"


def test_every_letter_of_the_table_is_some_options():
    # --help and --version are told before the options are; `report` is every command's page.
    used = {letter for _, field in every_option() for letter in shorts(field)}
    assert set(LETTERS) - used <= {"h", "V", "R"}


def test_an_option_has_a_long_form_and_a_short_one_where_its_letter_is_left():
    for words, field in every_option():
        where = f"{long_name(field)} of `{words}`"
        assert long_name(field) in spellings(field)
        mine = {letter for letter, name in LETTERS.items() if name == long_name(field)[2:]}
        assert mine <= set(shorts(field)), f"{where} lacks its letter {mine}"
        first = long_name(field)[2]
        left = {first.lower(), first.upper()} - set(LETTERS)
        if field.metadata.get("positional"):  # the word itself is its short form
            continue
        assert shorts(field) or not left, f"{where} has none, and {left} is left"


def test_an_option_holds_the_same_wherever_it_stands():
    """A settings file or a variable gives it to every command that has it."""
    seen = {}
    for words, field in every_option():
        # Whether it may be absent differs by command, and a command takes one model or several.
        if field.name != "model":
            kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
            if get_origin(field.type) is Literal:  # which values it takes differs, too
                kinds = [type(kinds[0])]
            kind = kinds[0] if get_origin(field.type) in (Union, Literal) else field.type
            first, known = seen.setdefault(field.name, (words, kind))
            assert kind == known, f"--{field.name} of `{words}` and `{first}`"


@pytest.mark.parametrize("command", COMMANDS)
def test_input_is_a_model_in_model_and_quant_and_data_elsewhere(command):
    _, cls = registry.load(command)
    for spelling, field in option_strings(cls).items():
        if spelling in ("-i", "--input"):
            assert (field.name == "model") == (command.group in ("model", "quant"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_device_has_the_same_names(command):
    _, cls = registry.load(command)
    for field in dataclasses.fields(cls):
        if field.name == "device":
            assert field.metadata["choices"] == DEVICES and field.default == "auto"
        if field.name in ("devices", "require"):
            assert set(field.metadata["choices"]) == set(DEVICES) - {"auto"}
    assert DEVICES == ("auto", "cpu", "gpu", "cuda", "rocm", "tpu", "metal", "mlx")


def test_those_that_take_several_models_are_these():
    several = [w for w, field in every_option() if field.name == "manifest"]
    assert several == [
        "model convert",
        "model validate",
        "model inspect",
        "quant convert",
        "bench run",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_is_always_m_model_and_positional(command):
    _, cls = registry.load(command)
    for field in dataclasses.fields(cls):
        if field.name == "model":
            assert {"-m", "--model"} <= set(spellings(field))
            assert field.metadata["positional"]
            assert ("--input" in spellings(field)) == (command.group in ("model", "quant"))


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_opens_makes_trains_or_runs_a_model_takes_plugins(command):
    _, cls = registry.load(command)
    names = {field.name for field in dataclasses.fields(cls)}
    # quickstart makes one model, of our own family; `dev` is about the machine.
    wants = command.group in ("model", "quant", "bench", "serve", "train")
    wants = wants or "model" in names  # ... but for those that are about a model
    about_none = ("bench validate", "bench regression", "serve test", "serve monitor")
    wants = wants and registry.words(command) not in about_none
    assert ("plugin" in names) == wants


def test_commands_print_nothing_and_reach_the_library_only_inside_run():
    root = Path(bitnet_cli.__file__).parent / "commands"
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in tree.body:  # the top level imports no library but the errors
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not node.module.startswith(("bitnet_jax", "jax", "numpy")) or (
                    node.module == "bitnet_jax.core.errors"
                ), path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                if node.module.startswith("bitnet_jax"):
                    assert node.module in ("bitnet_jax", "bitnet_jax.core.errors"), path
                    assert {n.name for n in node.names} == {"api"} or "errors" in node.module
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit", "input"), path


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse_and_name_their_command(command):
    from bitnet_cli.args import Parser
    from bitnet_cli.route import route

    module, cls = registry.load(command)
    for example in module.EXAMPLES:
        program, *argv = shlex.split(example)
        assert program == "bitnet"
        plan = route(argv)
        assert plan.command == command
        Parser(GlobalArgs, cls).typed(plan.argv)
