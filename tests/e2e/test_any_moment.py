"""Ctrl-C and SIGTERM at any moment of any command: one line, the right code, nothing left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.terminal import Ended, Folder

LAUNCHER = Path(__file__).parent / "interrupted_at.py"
CODES = {signal.SIGINT: (130, "cli.interrupted"), signal.SIGTERM: (143, "cli.terminated")}
# As shares of all calls: the first ones, the middle, the last ones.
MOMENTS = [0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0]
# Calls between a signal and a second one; 0: none comes.
GAPS = [0, 1, 10, 300, 0, 5000, 20, 0, 50, 0]


def run(cwd, number, at, gap, *argv, **env):
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), str(int(number)), str(at), str(gap), *argv],
        cwd=cwd, capture_output=True, text=True, timeout=240, env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def calls_of(cwd, *argv):
    """Returns how many calls a run makes that nothing disturbs, and its exit code."""
    ended = run(cwd, signal.SIGINT, 10**12, 0, *argv, CALLS=str(cwd.parent / "calls"))
    return int((cwd.parent / "calls").read_text()), ended.rc


def check(cwd, argv, moments, outputs=()):
    """Runs `argv` once per moment; what it writes (`outputs`) is there whole, or not at all."""
    total, usual = calls_of(cwd, *argv)
    for name in outputs:
        (cwd / name).unlink()
    folder, stopped = Folder(cwd), 0
    for index, share in enumerate(moments):
        number = (signal.SIGINT, signal.SIGTERM)[index % 2]
        at = max(1, round(total * share))
        ended = run(cwd, number, at, GAPS[MOMENTS.index(share)], *argv)
        assert "Traceback" not in ended.err and "Exception ignored" not in ended.err, ended
        rc, code = CODES[number]
        # In an import it waits (20 ms and more), and all may be done by then: that is the outcome.
        if ended.rc == usual:
            assert ended.err.count("error[") == (usual != 0), ended
        else:
            stopped += 1
            assert (ended.rc, ended.err.count("error[")) == (rc, 1), ended
            assert f"error[{code}]" in ended.err
        if "--json" in argv and ended.rc == rc:
            assert ended.envelope["errors"][0]["code"] == code
        for name in outputs:
            (cwd / name).unlink(missing_ok=True)
        folder.check_untouched()
    assert stopped  # the first moments are never too late


LINES = {
    "help": ["--help"],
    "a mistake": ["model", "inpsect", "--json"],
    "settings": ["dev", "config", "--json"],
    "a setting is written": ["dev", "config", "set", "seed", "2"],
}
OUTPUTS = {"a setting is written": ["bitnet.toml"]}


@pytest.mark.heavy
@pytest.mark.parametrize("name", LINES)
def test_a_light_command(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BITNET_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    check(tmp_path / "here", LINES[name], MOMENTS[::2] + MOMENTS[1::4], OUTPUTS.get(name, ()))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.e2e.terminal import here

    path = tmp_path_factory.mktemp("model") / "m.bitnet"
    assert here("model", "create", "tiny", "-l", "1", "-o", path).rc == 0
    return path


HEAVY = {
    "import jax, compile, generate": ["serve", "generate", "{}", "hi", "-n", "3"],
    "inspect": ["model", "inspect", "{}", "--json"],
    "convert": ["model", "convert", "{}", "-o", "out.bitnet"],
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", HEAVY)
def test_a_command_that_loads_jax(name, model, tmp_path):
    (tmp_path / "here").mkdir()
    argv = [word.format(model) for word in HEAVY[name]]
    outputs = ["out.bitnet", "out.receipt.json"] if name == "convert" else []
    check(tmp_path / "here", argv, MOMENTS[1::2], outputs)


def test_while_jax_is_imported(model, tmp_path):
    """The signal waits until the import is over: it must not leave half a module.

    Of a command that goes on for seconds after it: a short one may have done all by then.
    """
    argv = ["serve", "generate", str(model), "hi", "-n", "200"]
    ended = run(tmp_path, signal.SIGINT, 60_000, 0, *argv)
    assert (ended.rc, ended.code) == (130, "cli.interrupted")
