"""Terminals as they are: narrow, dumb, colourless, of an old encoding, unattended, or none."""

import os
import subprocess
import sys

import pytest

from tests.e2e.pseudo_terminal import terminal
from tests.e2e.terminal import MODULE, here

PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with settings, the more the wider."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "bitnet.toml").write_text("seed = 1\n[serve.generate]\nmax-tokens = 128\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BITNET_CONFIG_DIR", str(tmp_path / "config"))
    return folder


def shown(*argv, cwd, env=None, columns=80):
    """Returns what a terminal got, escapes and all, of a run that went well."""
    with terminal(*MODULE, *argv, cwd=cwd, env=env, columns=columns) as screen:
        assert screen.end() == 0, screen.screen
        return screen.raw.decode()


def test_a_wide_terminal_gets_a_table_and_a_narrow_one_every_value_in_whole(place):
    wide = shown("dev", "config", cwd=place, columns=200)
    assert "\u2500" in wide
    narrow = shown("dev", "config", cwd=place, columns=20)
    assert "\u2500" not in narrow and "\u2026" not in narrow
    for text in (wide, narrow):
        assert f"{place / 'bitnet.toml'}:3:1" in text and "serve generate" in text


@pytest.mark.parametrize("words", [["--help"], ["dev", "config", "--help"], ["help", "settings"]])
def test_help_at_20_columns_breaks_no_word(place, words):
    def of(text):
        return text.replace("\r", "").split()

    assert of(shown(*words, cwd=place, columns=20)) == of(shown(*words, cwd=place, columns=100))


COLOURS = [
    ({}, True),
    ({"NO_COLOR": "1"}, False),
    ({"TERM": "dumb"}, False),
    ({"FORCE_COLOR": "1", "TERM": "dumb"}, True),
    ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
]


@pytest.mark.parametrize(("env", "coloured"), COLOURS)
def test_colour_of_an_error_on_a_terminal(place, env, coloured):
    with terminal(*MODULE, "dev", "config", "get", "sede", cwd=place, env=env) as screen:
        assert screen.end() == 2
    assert (b"\x1b[1;31m" in screen.raw) == coloured
    assert "error[settings.unknown_name]: `sede`" in screen.screen
    assert "\n\nhint: did you mean `seed`" in screen.screen


def run(line, cwd, **env):
    """Runs a shell's line without any terminal."""
    given = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    return subprocess.run(
        ["bash", "-c", line.replace("bitnet", f"{sys.executable} -m bitnet_cli", 1)],
        cwd=cwd, capture_output=True, env={**given, **env}, timeout=60, start_new_session=True,
    )  # fmt: skip


def test_a_pipe_is_coloured_only_by_force(place):
    assert b"\x1b" not in run("bitnet dev config get sede", place).stderr
    assert b"\x1b[1;31m" in run("bitnet dev config get sede", place, FORCE_COLOR="1").stderr
    assert b"\x1b" not in run("bitnet dev config --json", place, FORCE_COLOR="1").stdout
    assert b"\x1b" not in run("bitnet dev config", place, FORCE_COLOR="0").stdout


def test_an_old_encoding_draws_no_lines_and_loses_nothing(place):
    (place / "bitnet.toml").write_text('stop = ["模型 é"]\n', encoding="utf-8")
    text = shown("dev", "config", cwd=place, env=PLAIN, columns=100)
    assert text.isascii() and "\\u2500" not in text and "\\u6a21" in text
    done = run("bitnet dev config --json", place, **PLAIN)
    assert done.returncode == 0 and done.stdout.isascii() and b"\\u6a21\\u578b" in done.stdout
    for form, wanted in (("yaml", b"\\u6A21"), ("junit", b'encoding="us-ascii"')):
        done = run(f"bitnet dev config --emit {form}", place, **PLAIN)
        assert done.returncode == 0 and done.stdout.isascii() and wanted in done.stdout
    done = run("bitnet model inspect 模", place, **PLAIN)
    assert done.returncode == 66 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("emit", ["table", "json", "jsonl", "yaml", "csv", "junit", "github"])
def test_head_takes_one_line_and_nobody_complains(place, emit):
    done = run(f"set -o pipefail; bitnet dev completion bash --emit {emit} | head -c 1", place)
    assert done.stderr == b"" and done.returncode == 0


@pytest.mark.parametrize("lost", ["<&-", "<&- 2>&-"])
def test_without_stdin_a_command_runs_and_never_asks(place, lost):
    done = run(f"bitnet dev config get seed --json {lost}", place)
    assert done.returncode == 0 and b'"value": 1' in done.stdout
    done = run(f"bitnet dev completion --json {lost}", place)
    assert done.returncode == 2 and b"cli.missing_option" in done.stdout


ASKS = ("dev", "completion")


def test_a_person_is_asked_and_shown_the_whole_line(place):
    with terminal(*MODULE, *ASKS, "--json", cwd=place) as screen:
        screen.wait_for("--shell: ")
        screen.type("bsh\n")
        screen.wait_for("did you mean `bash`?")
        screen.type("bash\n")
        assert screen.end() == 0
    assert "running: bitnet dev completion --json --shell=bash" in screen.screen


@pytest.mark.parametrize(
    ("key", "rc", "code"), [("\x03", 130, "cli.interrupted"), ("\x04", 2, "cli.missing_option")]
)
def test_ctrl_c_and_ctrl_d_at_a_question(place, key, rc, code):
    with terminal(*MODULE, *ASKS, cwd=place) as screen:
        screen.wait_for("--shell: ")
        screen.type(key)
        assert screen.end() == rc
    lines = screen.screen.splitlines()
    assert sum(line.startswith(f"error[{code}]: ") for line in lines) == 1, screen.screen
    assert "Traceback" not in screen.screen


@pytest.mark.parametrize("env", [{"CI": "true"}, {"BITNET_NO_INPUT": "1"}])
def test_nobody_is_asked_where_nobody_is(place, env):
    with terminal(*MODULE, *ASKS, cwd=place, env=env) as screen:
        assert screen.end() == 2
    assert "error[cli.missing_option]" in screen.screen


def test_the_log_tells_what_was_run_and_how_it_ended(place):
    assert here("dev", "config", "get", "seed", "--log-file", "l").rc == 0
    assert here("dev", "config", "get", "sede", "--log-file", "l").rc == 2
    lines = (place / "l").read_text().splitlines()
    assert "INFO bitnet_cli.run: bitnet dev config get seed --log-file l" in lines[0]
    assert lines[1].endswith("INFO bitnet_cli.run: done")
    assert "ERROR bitnet_cli.run: [settings.unknown_name] `sede`" in lines[3]
