"""Settings: which layer wins, where a value came from, and names that no option has."""

import re
from pathlib import Path

import pytest

import bitnet_jax
from bitnet_cli import registry
from bitnet_cli.args import Parser
from bitnet_cli.config import LIBRARY_ENV, resolve
from bitnet_cli.options import GlobalArgs
from bitnet_jax.core.errors import ConfigError, NoInput
from bitnet_jax.ops.native.library import KNOWN_ISAS

GENERATE = registry.find("serve", "generate")


def settings(tmp_path, typed=(), env=None, command=GENERATE):
    parser = Parser(GlobalArgs, registry.load(command)[1])
    return resolve(parser, command, parser.typed(list(typed)), env or {}, tmp_path)


def test_each_layer_wins_over_those_below_and_is_named_as_origin(tmp_path):
    (tmp_path / "bitnet.toml").write_text("seed = 5\ntop-k = 5\nmin-p = 0.5\ntemperature = 0.5\n")
    (tmp_path / "s.yaml").write_text("seed: 4\ntop_k: 4\nmin-p: 0.4\n")
    env = {"BITNET_SEED": "3", "BITNET_TOP_K": "3", "BITNET_SETTINGS": "s.yaml"}
    found = settings(tmp_path, ["--seed", "2"], env)
    assert found["seed"] == (2, "command line")
    assert found["top_k"] == (3, "environment variable BITNET_TOP_K")
    assert found["min_p"] == (0.4, f"{tmp_path / 's.yaml'}:3")
    assert found["temperature"] == (0.5, f"{tmp_path / 'bitnet.toml'}:4")
    assert found["max_tokens"] == (64, "default")


def test_the_most_special_table_of_a_file_wins(tmp_path):
    (tmp_path / "bitnet.toml").write_text(
        "seed = 1\ntop-k = 1\nmin-p = 0.1\n[serve]\nseed = 2\ntop-k = 2\n"
        "[serve.generate]\nseed = 3\n[serve.chat]\nseed = 4\n[model.convert]\nallow = ['a', 'b']\n"
    )
    found = settings(tmp_path)
    assert (found["seed"].value, found["top_k"].value, found["min_p"].value) == (3, 2, 0.1)
    assert found["seed"].origin.endswith("bitnet.toml:8")
    convert = settings(tmp_path, command=registry.find("model", "convert"))
    assert convert["allow"].value == ["a", "b"]


def test_the_workspace_is_found_from_a_folder_below(tmp_path):
    (tmp_path / "bitnet.toml").write_text("seed = 9\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert settings(below)["seed"].value == 9


@pytest.mark.parametrize("text", ["plugin = 'f.py'\n", "[serve]\nplugin = ['f.py']\n"])
def test_code_runs_when_it_is_named_and_never_because_of_the_folder(tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    named = settings(tmp_path, ["--settings", "s.toml"])["plugin"]
    assert named.value == ["f.py"]
    assert settings(tmp_path, env={"BITNET_PLUGIN": "g.py"})["plugin"].value == ["g.py"]
    typed = ["--plugin", "a.py", "--plugin", "b.py"]
    assert settings(tmp_path, typed)["plugin"].value == ["a.py", "b.py"]
    # A stranger's folder may hold a bitnet.toml beside its model.
    (tmp_path / "bitnet.toml").write_text(text)
    for command in (GENERATE, registry.find("serve", "chat")):
        with pytest.raises(ConfigError, match=r"bitnet.toml:\d: `plugin` would run") as caught:
            settings(tmp_path, typed, command=command)
        assert caught.value.code == "settings.workspace_code"
        assert "--plugin" in caught.value.hint and "BITNET_PLUGIN" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "code", "message"),
    [
        ("s.toml", "sede = 1\n", "settings.unknown_key", "s.toml:1: unknown name `sede`"),
        ("s.toml", "\n[sreve]\nseed = 1\n", "settings.unknown_key", "s.toml:2: unknown name"),
        ("s.toml", "[serve]\n[serve.generat]\n", "settings.unknown_key", "s.toml:2: unknown"),
        ("s.toml", "[serve.generate]\nlayers = 1\n", "settings.unknown_key", "[serve.generate]"),
        ("s.toml", "settings = 'x'\n", "settings.unknown_key", "settings"),
        ("s.toml", "seed = \n", "settings.syntax", "line 1"),
        ("s.toml", "seed = 1\nseed = 2\n", "settings.syntax", "s.toml"),
        ("s.yaml", "seed: 1\nseed: 2\n", "settings.syntax", "line 2"),
        ("s.yaml", "- 1\n", "settings.syntax", "names and values"),
        ("s.yaml", "a: [" * 9999, "settings.syntax", "s.yaml"),
        ("s.toml", "seed = 'x'\n", "settings.bad_value", "s.toml:1: --seed"),
        ("s.toml", "seed = [1]\n", "settings.bad_value", "list stands"),
        ("s.toml", "quiet = 'maybe'\n", "settings.bad_value", "neither true nor false"),
        ("s.toml", "emit = 'jsn'\n", "settings.bad_value", "not a value of --emit"),
    ],
)
def test_a_wrong_settings_file_is_an_error_with_its_place(tmp_path, name, text, code, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, ["--settings", name])
    assert caught.value.code == code
    assert message in caught.value.message


def test_the_nearest_name_is_suggested(tmp_path):
    (tmp_path / "bitnet.toml").write_text("max-tokns = 1\n")
    with pytest.raises(ConfigError, match="max-tokns") as caught:
        settings(tmp_path)
    assert "`max-tokens`" in caught.value.hint


def test_a_missing_settings_file(tmp_path):
    with pytest.raises(NoInput):
        settings(tmp_path, ["--settings", "no.toml"])


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("no", False), ("0", False)]
)
def test_a_flag_from_the_environment(tmp_path, text, value):
    assert settings(tmp_path, env={"BITNET_QUIET": text})["quiet"].value is value


def test_an_unknown_environment_variable_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, env={"BITNET_MAX_TOKEN": "3"})
    assert "`BITNET_MAX_TOKENS`" in caught.value.hint


def test_variables_of_other_commands_and_of_the_library_and_empty_ones_pass(tmp_path):
    env = {"BITNET_LAYERS": "2", "BITNET_KERNELS": "/k", "BITNET_SEED": ""}
    assert settings(tmp_path, env=env)["seed"].origin == "default"


def test_every_variable_the_library_reads_is_known():
    """Else setting it would be an error: add it to `LIBRARY_ENV`."""
    read = set()
    for path in Path(bitnet_jax.__file__).parent.rglob("*.py"):
        read |= set(re.findall(r"""["'](BITNET_[A-Z_0-9]+)["']""", path.read_text()))
    assert read <= set(LIBRARY_ENV)


def test_every_instruction_set_is_named():
    assert all(isa in LIBRARY_ENV["BITNET_ISA"] for isa in KNOWN_ISAS)
