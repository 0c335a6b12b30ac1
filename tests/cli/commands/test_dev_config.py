"""`bitnet dev config` and `bitnet dev profile`: what is shown, and what is written."""

import tomllib

import pytest


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("BITNET_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config"


def written(tmp_path):
    return tomllib.loads((tmp_path / "bitnet.toml").read_text())


def test_nothing_is_set(bitnet, tmp_path):
    done = bitnet("dev", "config")
    assert done.rc == 0 and "Every setting is at its default." in done.out
    data = bitnet("dev", "config", "--json").envelope["data"]
    assert data["settings"] == [] and data["files"]["workspace"] is None


def test_every_value_that_is_set_is_listed_with_its_origin_and_commands(
    bitnet, tmp_path, monkeypatch
):
    (tmp_path / "bitnet.toml").write_text("progress = 'plain'\n[serve.chat]\nseed = 3\n")
    monkeypatch.setenv("BITNET_MAX_TOKENS", "9")
    rows = bitnet("dev", "config", "--json").envelope["data"]["settings"]
    assert [(r["name"], r["value"], r["layer"], r["commands"]) for r in rows] == [
        ("max-tokens", 9, "environment", []),
        ("progress", "plain", "workspace", []),
        ("seed", 3, "workspace", ["serve chat"]),
    ]
    assert rows[2]["origin"] == f"{tmp_path / 'bitnet.toml'}:3:1"


def test_the_settings_of_one_command_with_its_defaults(bitnet, tmp_path):
    (tmp_path / "bitnet.toml").write_text("[serve.chat]\nseed = 3\n")
    for words in ("serve.chat", "serve chat"):
        data = bitnet("dev", "config", "list", words, "--json").envelope["data"]
        rows = {row["name"]: (row["value"], row["layer"]) for row in data["settings"]}
        assert rows["seed"] == (3, "workspace") and rows["max-tokens"] == (64, "default")
    wrong = bitnet("dev", "config", "list", "serve.chta", "--json")
    assert wrong.rc == 2 and "`serve chat`" in wrong.envelope["errors"][0]["hint"]


def test_get_tells_what_each_layer_says(bitnet, tmp_path, monkeypatch):
    (tmp_path / "bitnet.toml").write_text("seed = 3\n")
    bitnet("dev", "profile", "create", "p", "--set", "seed=4")
    monkeypatch.setenv("BITNET_SEED", "2")
    done = bitnet("dev", "config", "get", "serve.chat.seed", "--profile", "p", "--json")
    data = done.envelope["data"]
    assert data["value"] == 2
    assert [(r["layer"], r["value"], r["in_force"]) for r in data["layers"]] == [
        ("environment", 2, True),
        ("workspace", 3, False),
        ("profile", 4, False),
        ("default", 0, False),
    ]
    wrong = bitnet("dev", "config", "get", "sede", "--json")
    assert wrong.rc == 2 and "`seed`" in wrong.envelope["errors"][0]["hint"]


def test_set_and_unset_keep_all_else_of_the_file(bitnet, tmp_path):
    before = "# ours\ntop_k = 4  # few\n\n[serve]\nseed = 1\n"
    (tmp_path / "bitnet.toml").write_text(before)
    assert bitnet("dev", "config", "set", "serve.generate.max-tokens", "128").rc == 0
    assert bitnet("dev", "config", "set", "top-k", "5").rc == 0
    assert bitnet("dev", "config", "set", "serve.stop", '["a", "b"]').rc == 0
    assert bitnet("dev", "config", "set", "quiet", "yes").rc == 0
    assert written(tmp_path) == {
        "top_k": 5,
        "quiet": True,
        "serve": {"seed": 1, "stop": ["a", "b"], "generate": {"max-tokens": 128}},
    }
    text = (tmp_path / "bitnet.toml").read_text()
    assert "# ours\n" in text and "# few" in text
    for name in ("serve.generate.max-tokens", "serve.stop", "quiet"):
        assert bitnet("dev", "config", "unset", name).rc == 0
    bitnet("dev", "config", "set", "top-k", "4")
    assert written(tmp_path) == {
        "top_k": 4,
        "serve": {"seed": 1, "generate": {}},
    }
    again = bitnet("dev", "config", "unset", "quiet", "--json")
    assert again.rc == 66 and again.envelope["errors"][0]["code"] == "settings.not_set"


@pytest.mark.parametrize(
    ("argv", "rc", "code"),
    [
        (["set", "sede", "1"], 2, "settings.unknown_name"),
        (["set", "sevre.seed", "1"], 2, "settings.unknown_name"),
        (["set", ".seed", "1"], 2, "settings.unknown_name"),
        (["set", "serve..seed", "1"], 2, "settings.unknown_name"),
        (["set", "", "1"], 2, "settings.unknown_name"),
        (["set", "a b", "1"], 2, "settings.unknown_name"),
        (["set", "seed", "x"], 2, "settings.value"),
        (["set", "serve.seed", "-1"], 2, "cli.unknown_option"),
        (["set", "stop", "[1"], 2, "settings.value"),
        (["set", "emit", "jsn"], 2, "settings.value"),
        (["set", "settings", "x.toml"], 2, "settings.unknown_name"),
        (["set", "plugin", "x.py"], 78, "settings.workspace_code"),
        (["set", "seed"], 2, "cli.missing_option"),
        (["set"], 2, "cli.missing_option"),
        (["lst"], 2, "cli.bad_value"),
        (["set", "seed", "1", "--to", "profile"], 73, "settings.no_profile"),
    ],
)
def test_what_is_refused_writes_nothing(bitnet, tmp_path, argv, rc, code):
    if argv[-1] == "-1":
        argv, code = [*argv[:-1], "--value=-1"], "settings.value"
    done = bitnet("dev", "config", *argv, "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (rc, code)
    assert done.envelope["errors"][0]["hint"]
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_something_stronger_hides_is_said(bitnet, monkeypatch):
    monkeypatch.setenv("BITNET_SEED", "2")
    done = bitnet("dev", "config", "set", "seed", "3")
    assert done.rc == 0 and "environment variable BITNET_SEED says 2, and wins" in done.err


def test_a_profile_from_its_creation_to_its_end(bitnet, tmp_path, home):
    assert "no profiles" in bitnet("dev", "profile").out
    made = bitnet(
        "dev", "profile", "create", "fast", "--set", "progress=none", "--set", "serve.seed=5"
    )
    assert made.rc == 0 and "--profile fast" in made.out
    assert bitnet("dev", "profile", "create", "fast").rc == 73
    assert bitnet("dev", "profile", "show", "fast", "--json").envelope["data"]["settings"] == [
        {"name": "progress", "value": "none", "origin": f"{home}/profiles/fast.toml:2:1"},
        {"name": "serve.seed", "value": 5, "origin": f"{home}/profiles/fast.toml:5:1"},
    ]
    assert bitnet("dev", "profile", "default", "fast").rc == 0
    get = ("dev", "config", "get", "serve.chat.seed", "--json")
    assert bitnet(*get).envelope["data"]["value"] == 5
    changed = bitnet("dev", "config", "set", "serve.seed", "6", "--to", "profile")
    assert changed.rc == 0 and bitnet(*get).envelope["data"]["value"] == 6
    listed = bitnet("dev", "profile", "--json").envelope["data"]
    assert listed["default"] == "fast" and listed["profiles"][0]["default"] is True
    assert bitnet("dev", "profile", "delete", "fast").rc == 0
    assert bitnet(*get).envelope["data"]["value"] == 0
    assert bitnet("dev", "profile", "default").out == "there is no default profile\n"
    gone = bitnet("dev", "profile", "show", "fast", "--json")
    assert gone.rc == 78 and gone.envelope["errors"][0]["code"] == "settings.unknown_profile"


def test_a_profile_is_private_to_its_user_and_a_bad_one_is_not_made(bitnet, home):
    wrong = bitnet("dev", "profile", "create", "p", "--set", "sede=1", "--json")
    assert wrong.rc == 2 and not home.exists()
    assert bitnet("dev", "profile", "create", "p", "--set", "plugin=f.py").rc == 78
    assert bitnet("dev", "profile", "list", "--set", "a=1").rc == 2
    bitnet("dev", "profile", "create", "p")
    assert (home / "profiles").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "before",
    [
        "serve = {seed = 1}\n",
        "serve.seed = 1\n",
        "[serve.generate]\n",
        "[serve]\r\nseed = 1\r\n",
        "",
    ],
)
def test_however_a_file_is_written_it_can_be_changed_and_read_again(bitnet, tmp_path, before):
    (tmp_path / "bitnet.toml").write_bytes(before.encode())
    for name, value in (("serve.generate.seed", "7"), ("seed", "8"), ("serve.top-k", "9")):
        assert bitnet("dev", "config", "set", name, value).rc == 0
    text = 'a "quoted"\nline \u00e9 = [x]'
    assert bitnet("dev", "config", "set", "serve.generate.prompt", text).rc == 0
    rows = bitnet("dev", "config", "list", "serve.generate", "--json").envelope["data"]["settings"]
    found = {row["name"]: row["value"] for row in rows}
    assert (found["seed"], found["top-k"], found["prompt"]) == (7, 9, text)


def test_a_link_stays_a_link(bitnet, tmp_path):
    (tmp_path / "real.toml").write_text("seed = 1\n")
    (tmp_path / "bitnet.toml").symlink_to("real.toml")
    assert bitnet("dev", "config", "set", "seed", "2").rc == 0
    assert (tmp_path / "bitnet.toml").is_symlink()
    assert (tmp_path / "real.toml").read_text() == "seed = 2\n"


def test_a_value_that_only_a_planned_command_reads_is_checked_before_it_is_written(
    bitnet, tmp_path
):
    done = bitnet("dev", "config", "set", "serve.start.port", "abc", "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (2, "settings.value")
    assert list(tmp_path.iterdir()) == [] and bitnet("dev", "config").rc == 0
    assert bitnet("dev", "config", "set", "serve.start.port", "81").rc == 0
    assert written(tmp_path) == {"serve": {"start": {"port": 81}}}


def test_a_profile_that_is_not_there_is_not_set(bitnet, tmp_path):
    done = bitnet("dev", "config", "set", "profile", "nosuch", "--json")
    assert (done.rc, done.envelope["errors"][0]["code"]) == (78, "settings.unknown_profile")
    assert "--profile none" in done.envelope["errors"][0]["hint"]
    assert list(tmp_path.iterdir()) == []
    assert bitnet("dev", "config", "set", "profile", "none").rc == 0


@pytest.mark.parametrize("name", ["nosuch", "no name"])
@pytest.mark.parametrize("how", ["workspace", "default", "environment"])
def test_a_profile_that_is_missing_can_be_mended(bitnet, tmp_path, home, monkeypatch, how, name):
    if how == "workspace":
        (tmp_path / "bitnet.toml").write_text(f"profile = '{name}'\n")
        mend = ("dev", "config", "unset", "profile")
    elif how == "default":
        home.mkdir()
        (home / "default-profile").write_text(f"{name}\n")
        mend = ("dev", "profile", "default", "none")
    else:
        monkeypatch.setenv("BITNET_PROFILE", name)
        mend = ("dev", "config", "set", "seed", "1")
    assert bitnet("dev", "check").rc == (78 if name == "nosuch" else 2)
    for line in (("dev", "config"), ("dev", "config", "get", "seed"), ("dev", "profile")):
        done = bitnet(*line, "--json")
        assert done.rc == 0 and f"`{name}`" in done.envelope["warnings"][0]
    done = bitnet(*mend, "--json")
    assert done.rc == 0 and bool(done.envelope["warnings"]) == (how == "environment")
    assert bitnet("dev", "config", "--profile", "other").rc == 78


def test_only_files_that_can_be_chosen_are_profiles(bitnet, home):
    bitnet("dev", "profile", "create", "p")
    for name in ("none", ".hidden", "a b"):
        (home / "profiles" / f"{name}.toml").write_text("")
    rows = bitnet("dev", "profile", "--json").envelope["data"]["profiles"]
    assert [row["name"] for row in rows] == ["p"]
