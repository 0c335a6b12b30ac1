"""The completion scripts: every command is in them, and nothing else."""

import argparse
import re
import subprocess

import pytest

from bitnet_cli import completion, registry
from bitnet_cli.completion import SHELLS, keys, script, tree
from bitnet_cli.completion_words import KINDS
from bitnet_cli.fields import option_strings
from bitnet_cli.options import GlobalArgs

ENV = {"BITNET_CONFIG_DIR": "/con fig/$x"}


def parsers(parser, words=()):
    """Yields (words, parser) for a tree and all below it."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*words, name))


TREE = dict(parsers(tree()))


def test_every_command_and_alias_that_runs_is_there_and_no_other():
    words = {tuple(registry.words(command).split()) for command in registry.built()}
    built = {(command.group, command.name) for command in registry.built()}
    for (group, name), target in registry.ALIASES.items():
        if target in built:
            words.add((group, name) if group else (name,))
    groups = {(path[0],) for path in words if len(path) == 2}
    assert set(TREE) == words | groups | {(), ("help",)}


@pytest.mark.parametrize("command", registry.built(), ids=registry.words)
def test_every_option_of_a_command_is_completed(command):
    parser = TREE[tuple(registry.words(command).split())]
    known = {s for action in parser._actions for s in action.option_strings}
    fields = option_strings(registry.load(command)[1]).items()
    own = {spelling for spelling, field in fields if field.metadata.get("built", True)}
    own |= set(option_strings(GlobalArgs))
    assert known == own | {"-h", "--help"}


def value_of(words, name):
    return next(
        action
        for action in TREE[words]._actions
        if name in action.option_strings or action.dest == name
    )


@pytest.mark.parametrize(
    ("words", "name", "kind"),
    [
        (("model", "inspect"), "--input", "model"),
        (("model", "inspect"), "word_model", "model"),
        (("chat",), "word_model", "model"),
        (("train", "start"), "-c", "recipe"),
        (("model", "convert"), "-o", "file"),
        (("serve", "generate"), "--dump-passes", "folder"),
        (("serve", "generate"), "--plugin", "plugin"),
        ((), "--settings", "settings"),
        ((), "--profile", "profile"),
        (("dev", "profile"), "word_name", "profile"),
    ],
)
def test_what_kind_of_value_is_completed(words, name, kind):
    assert value_of(words, name).complete == completion.calls(kind)


def test_choices_and_keys():
    formats = ["bitnet", "huggingface", "gguf", "safetensors", "onnx", "stablehlo"]
    assert value_of(("model", "convert"), "--format").choices == formats
    assert value_of((), "--emit").choices[0] == "table"
    assert value_of(("dev", "completion"), "word_shell").choices == list(SHELLS)
    found = value_of(("dev", "config"), "word_name").choices
    assert found == keys()
    assert {"progress", "max-tokens", "serve.generate.max-tokens"} <= set(found)
    assert "settings" not in found and "serve.generate.progress" not in found
    assert not [name for name in found if name.startswith("serve.start.")]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_says_how_it_is_kept_and_names_every_command(shell):
    text = script(shell, ENV)
    assert f"# To keep it:\n#   bitnet dev completion {shell} >" in text
    for command in registry.built():
        assert command.name in text
    assert "monitor" not in text  # announced, and not built yet
    if shell != "tcsh":
        assert all(f"complete_file_{kind}" in text or f"complete_{kind}" in text for kind in KINDS)
        wanted = {"bash": '"${BITNET_CONFIG_DIR:-/con fig/\\$x}"', "powershell": "'/con fig/$x'"}
        assert wanted.get(shell, "/con fig/\\$x") in text


SYNTAX = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", SYNTAX)
def test_the_shell_itself_reads_it(shell, tmp_path):
    (tmp_path / "script").write_text(script(shell, ENV))
    done = subprocess.run([*SYNTAX[shell], "script"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_powershell_script_is_balanced_and_calls_only_what_it_defines():
    """PowerShell is in no Debian archive: what can be told without it."""
    text = script("powershell", ENV)
    assert "$ {" not in text and "@@" not in text
    bare = re.sub(
        r"'(?:[^']|'')*'",
        "''",
        "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")),
    )
    bare = re.sub(r'"[^"\n]*"', '""', bare)
    for opens, closes in ("{}", "()", "[]"):
        assert bare.count(opens) == bare.count(closes), opens
    called = set(re.findall(r"\b_(?:bitnet|shtab_powershell)_\w+", bare))
    called |= set(re.findall(r"'(_bitnet_complete_\w+)'", text))
    assert called <= set(re.findall(r"^function (\S+)", text, re.M))


def test_the_script_is_the_record_and_the_page(bitnet):
    page = bitnet("dev", "completion", "fish")
    assert page.rc == 0 and page.err == ""
    data = bitnet("dev", "completion", "fish", "--json").envelope["data"]
    assert data["script"] == page.out and data["shell"] == "fish"
    assert data["install"] in bitnet("dev", "completion", "--help").out
    wrong = bitnet("dev", "completion", "fsh", "--json")
    assert wrong.rc == 2 and "`fish`" in wrong.envelope["errors"][0]["hint"]
