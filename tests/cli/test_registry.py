"""The table of commands, and what every command must keep."""

import ast
import dataclasses
import shlex
from pathlib import Path

import pytest

import bitnet_cli
from bitnet_cli import registry
from bitnet_cli.args import check
from bitnet_cli.fields import long_name, option_strings, spellings
from bitnet_cli.options import LETTERS, GlobalArgs

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


@pytest.mark.parametrize("command", BUILT)
def test_a_built_command_is_a_file_with_args_examples_and_run(command):
    module, cls = registry.load(command)
    check(cls)
    assert callable(module.run)
    assert module.__doc__ and cls.__doc__
    assert len(module.EXAMPLES) >= 2
    place = command.group or "commands"
    assert Path(module.__file__).parent.name == place


@pytest.mark.parametrize("command", BUILT)
def test_the_options_do_not_clash_with_those_of_every_command(command):
    _, cls = registry.load(command)
    assert not set(option_strings(cls)) & set(option_strings(GlobalArgs))


@pytest.mark.parametrize("command", BUILT)
def test_one_letter_has_one_meaning(command):
    _, cls = registry.load(command)
    # What a letter means, where the option's own name says it otherwise.
    same = {"max-tokens": "count"}
    for field in [*dataclasses.fields(cls), *dataclasses.fields(GlobalArgs)]:
        longs = {name[2:] for name in spellings(field) if name.startswith("--")}
        longs |= {same[name] for name in longs if name in same}
        for name in spellings(field):
            if not name.startswith("--"):
                assert LETTERS[name[1:]] in longs, f"{name} of {long_name(field)}"


@pytest.mark.parametrize("command", BUILT)
def test_a_model_is_always_m_model_and_positional(command):
    _, cls = registry.load(command)
    for field in dataclasses.fields(cls):
        if field.name == "model":
            assert {"-m", "--model"} <= set(spellings(field))
            assert field.metadata["positional"]
            assert ("--input" in spellings(field)) == (command.group in ("model", "quant"))


@pytest.mark.parametrize("command", BUILT)
def test_whatever_opens_makes_trains_or_runs_a_model_takes_plugins(command):
    _, cls = registry.load(command)
    names = {field.name for field in dataclasses.fields(cls)}
    # quickstart makes one model, of our own family; `dev` is about the machine.
    wants = command.group in ("model", "quant", "bench", "serve", "train")
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


@pytest.mark.parametrize("command", BUILT)
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
