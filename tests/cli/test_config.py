"""Settings: which layer wins, where a value came from, and names that no option has."""

import re
from pathlib import Path

import pytest

import bitnet_jax
from bitnet_cli import registry
from bitnet_cli.args import Parser
from bitnet_cli.config import LIBRARY_ENV, OTHER_ENV, resolve
from bitnet_cli.options import GlobalArgs
from bitnet_jax.core.errors import ConfigError, NoInput, UsageError
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
    assert found["min_p"] == (0.4, f"{tmp_path / 's.yaml'}:3:1")
    assert found["temperature"] == (0.5, f"{tmp_path / 'bitnet.toml'}:4:1")
    assert found["max_tokens"] == (64, "default")


def test_the_most_special_table_of_a_file_wins(tmp_path):
    (tmp_path / "bitnet.toml").write_text(
        "seed = 1\ntop-k = 1\nmin-p = 0.1\n[serve]\nseed = 2\ntop-k = 2\n"
        "[serve.generate]\nseed = 3\n[serve.chat]\nseed = 4\n[model.convert]\nallow = ['a', 'b']\n"
    )
    found = settings(tmp_path)
    assert (found["seed"].value, found["top_k"].value, found["min_p"].value) == (3, 2, 0.1)
    assert found["seed"].origin.endswith("bitnet.toml:8:1")
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
        with pytest.raises(ConfigError, match=r"bitnet.toml:\d:1: `plugin` would run") as caught:
            settings(tmp_path, typed, command=command)
        assert caught.value.code == "settings.workspace_code"
        assert "--plugin" in caught.value.hint and "BITNET_PLUGIN" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "code", "message"),
    [
        ("s.toml", "sede = 1\n", "settings.unknown_key", "s.toml:1:1: unknown name `sede`"),
        ("s.toml", "\n[sreve]\nseed = 1\n", "settings.unknown_key", "s.toml:2:2: unknown name"),
        ("s.toml", "[serve]\n[serve.generat]\n", "settings.unknown_key", "s.toml:2:8: unknown"),
        ("s.toml", "[serve.generate]\nlayers = 1\n", "settings.unknown_key", "[serve.generate]"),
        ("s.toml", "settings = 'x'\n", "settings.unknown_key", "settings"),
        ("s.toml", "seed = \n", "settings.syntax", "s.toml:1:8: "),
        ("s.toml", "seed = 1\nseed = 2\n", "settings.syntax", "s.toml"),
        ("s.yaml", "seed: 1\nseed: 2\n", "settings.syntax", "s.yaml:2:1: "),
        ("s.yaml", "- 1\n", "settings.syntax", "names and values"),
        ("s.yaml", "a: [" * 9999, "settings.syntax", "s.yaml"),
        ("s.toml", "seed = 'x'\n", "settings.bad_value", "s.toml:1:1: --seed"),
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


def test_variables_of_other_commands_of_the_library_of_the_build_and_empty_ones_pass(tmp_path):
    env = {"BITNET_LAYERS": "2", "BITNET_KERNELS": "/k", "BITNET_SEED": "", "BITNET_WHEEL": "auto"}
    assert settings(tmp_path, env=env)["seed"].origin == "default"


def test_every_variable_the_library_reads_is_known():
    """Else setting it would be an error: add it to `LIBRARY_ENV`."""
    read = set()
    for path in Path(bitnet_jax.__file__).parent.rglob("*.py"):
        read |= set(re.findall(r"""["'](BITNET_[A-Z_0-9]+)["']""", path.read_text()))
    assert read <= set(LIBRARY_ENV)


def test_every_other_variable_that_is_read_or_named_is_told():
    """Else nobody can know of it: add it to `OTHER_ENV`."""
    names = r"""environ(?:\.get)?[\[(]["']([A-Z_]+)["']|\b((?:HF|AWS|GOOGLE|STORAGE)_[A-Z_]+)"""
    told = {name for row in OTHER_ENV for name in re.split(r", |=\w+", row)}
    told |= {"PATH", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE"}  # the system's; an old name
    met = set()
    for path in Path(bitnet_jax.__file__).parent.rglob("*.py"):
        met |= {one or other for one, other in re.findall(names, path.read_text())}
    assert {name for name in met if not name.startswith("BITNET_")} <= told


def test_every_instruction_set_is_named():
    assert all(isa in LIBRARY_ENV["BITNET_ISA"] for isa in KNOWN_ISAS)


# ---------------------------------------------------------------------------- profiles


@pytest.fixture
def home(tmp_path):
    """A config folder with two profiles."""
    folder = tmp_path / "config" / "profiles"
    folder.mkdir(parents=True)
    (folder / "fast.toml").write_text("seed = 7\n[serve.generate]\ntop-k = 7\n")
    (folder / "slow.toml").write_text("seed = 8\n")
    return {"BITNET_CONFIG_DIR": str(tmp_path / "config")}


def test_a_profile_stands_below_the_workspace_and_above_the_defaults(tmp_path, home):
    (tmp_path / "bitnet.toml").write_text("seed = 5\n")
    found = settings(tmp_path, ["--profile", "fast"], home)
    assert found["seed"].value == 5
    assert found["top_k"] == (7, f"{tmp_path / 'config/profiles/fast.toml'}:3:1")
    assert found["max_tokens"].origin == "default"


def test_who_may_name_the_profile_and_who_wins(tmp_path, home):
    def seed(typed=(), **env):
        return settings(tmp_path, typed, {**home, **env})["seed"].value

    assert seed() == 0
    (tmp_path / "config" / "default-profile").write_text("slow\n")
    assert seed() == 8
    (tmp_path / "bitnet.toml").write_text("profile = 'fast'\n")
    assert seed() == 7
    (tmp_path / "s.yaml").write_text("profile: slow\n")
    assert seed(BITNET_SETTINGS="s.yaml") == 8
    assert seed(BITNET_SETTINGS="s.yaml", BITNET_PROFILE="fast") == 7
    assert seed(["--profile", "slow"], BITNET_PROFILE="fast") == 8
    assert seed(["--profile", "none"], BITNET_PROFILE="fast") == 0


@pytest.mark.parametrize("how", ["typed", "environment", "workspace", "default"])
def test_a_profile_that_is_not_there_says_who_asked_for_it(tmp_path, home, how):
    typed, env, origin = [], dict(home), "command line"
    if how == "typed":
        typed = ["--profile", "fsat"]
    elif how == "environment":
        env["BITNET_PROFILE"], origin = "fsat", "environment variable BITNET_PROFILE"
    elif how == "workspace":
        (tmp_path / "bitnet.toml").write_text("profile = 'fsat'\n")
        origin = f"{tmp_path / 'bitnet.toml'}:1:1"
    else:
        (tmp_path / "config" / "default-profile").write_text("fsat\n")
        origin = str(tmp_path / "config" / "default-profile")
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, typed, env)
    assert caught.value.code == "settings.unknown_profile"
    assert f"({origin})" in caught.value.message
    assert "`fast`" in caught.value.hint and "profile create" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("profile = 'slow'\n", "settings.unknown_key"),
        ("settings = 's.toml'\n", "settings.unknown_key"),
        ("sede = 1\n", "settings.unknown_key"),
        ("plugin = ['f.py']\n", "settings.profile_code"),
    ],
)
def test_what_a_profile_may_not_say(tmp_path, home, text, code):
    (tmp_path / "config" / "profiles" / "fast.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"fast\.toml:1:1: ") as caught:
        settings(tmp_path, ["--profile", "fast"], home)
    assert caught.value.code == code


def test_a_plugin_of_a_profile_has_an_absolute_path(tmp_path, home):
    file = tmp_path / "config" / "profiles" / "fast.toml"
    file.write_text(f"plugin = ['{tmp_path}/f.py']\n")
    assert settings(tmp_path, ["--profile", "fast"], home)["plugin"].value == [f"{tmp_path}/f.py"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "x" * 65, "a b"])
def test_a_name_that_is_no_name(tmp_path, home, name):
    with pytest.raises(UsageError):
        settings(tmp_path, [f"--profile={name}"], home)


TRAPS = [
    ("s.yaml", "seed: 1\nseed: 2\n", "s.yaml:2:1: found duplicate key"),
    ("s.yaml", "serve:\n\tseed: 1\n", "s.yaml:2:1: found character '\\t'"),
    ("s.yaml", "temperature: .nan\n", "s.yaml:1:1: --temperature"),
    ("s.yaml", "serve: {sede: 1}\n", "s.yaml:1:9: unknown name `sede` in [serve]"),
    ("s.yaml", "seed:\n", "s.yaml:1:1: `seed` has no value"),
    ("s.yaml", "1: 2\n", "s.yaml:1:1: unknown name `1`"),
    ("s.json", '{"seed": 1, "seed": 2}', "s.json:1:13: found duplicate key"),
    ("s.toml", "temperature = nan\n", "s.toml:1:1: --temperature"),
    ("s.toml", "\nserve = {sede = 1}\n", "s.toml:2:10: unknown name `sede`"),
    ("s.toml", "serve.generate.sede = 1\n", "s.toml:1:16: unknown name `sede`"),
    ("s.toml", "[serve . generate]\n\n  'sede' = 1\n", "s.toml:3:4: unknown name `sede`"),
    ("s.toml", "seed = 1\nx = [", "s.toml:2:6: "),
    ("s.toml", "seed = " + "[" * 100_000, "s.toml"),
]


@pytest.mark.parametrize(("name", "text", "message"), TRAPS)
def test_the_place_of_a_mistake_has_a_column(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, ["--settings", name])
    assert message in caught.value.message


def test_small_numbers_tabs_in_json_and_empty_files_are_read(tmp_path):
    (tmp_path / "s.yaml").write_text("min-p: 1e-4\n")
    assert settings(tmp_path, ["--settings", "s.yaml"])["min_p"].value == 1e-4
    (tmp_path / "s.json").write_text('{\n\t"seed":\t3\n}')
    assert settings(tmp_path, ["--settings", "s.json"])["seed"].value == 3
    for name in ("e.yaml", "e.toml", "e.json"):
        (tmp_path / name).write_text("")
        assert settings(tmp_path, ["--settings", name])["seed"].origin == "default"
