"""Running the command line in this process, with streams, an API and commands of the test."""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

import bitnet_jax
from bitnet_cli import registry
from bitnet_cli.main import main


class Stream(io.StringIO):
    """A text stream that may call itself a terminal."""

    def __init__(self, text="", terminal=False, screen=None):
        super().__init__(text)
        self.terminal, self.screen = terminal, screen

    def isatty(self):
        return self.terminal

    def write(self, text):
        if self.screen is not None:
            self.screen.append(text)
        return super().write(text)


@dataclass
class Outcome:
    rc: int
    out: str
    err: str
    screen: str = ""  # stdout and stderr in the order written, as one terminal shows them

    @property
    def envelope(self):
        lines = self.out.splitlines()
        assert len(lines) == 1, f"exactly one envelope, got: {self.out!r}"
        return json.loads(lines[0])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("BITNET_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))  # profiles of the test alone
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bitnet(monkeypatch):
    """Runs `bitnet *argv` here."""

    def run(*argv, stdin="", terminal=False):
        screen = []
        written = [Stream(terminal=terminal, screen=screen) for _ in range(2)]
        streams = [Stream(stdin, terminal), *written]
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        rc = main([str(word) for word in argv])
        return Outcome(rc, streams[1].getvalue(), streams[2].getvalue(), "".join(screen))

    return run


@pytest.fixture
def spawn(tmp_path):
    """Runs `bitnet *argv` in a process of its own."""

    def run(*argv, env=None, code=None, **options):
        line = [sys.executable, "-c", code] if code else [sys.executable, "-m", "bitnet_cli"]
        done = subprocess.run(
            [*line, *map(str, argv)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            timeout=120,
            **options,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fake_command(monkeypatch):
    """Adds `bitnet dev fake`, whose args class and run function the test gives."""

    def add(run, args_class, examples=("bitnet dev fake a", "bitnet dev fake b")):
        name = "bitnet_cli.commands.dev.fake"
        module = ModuleType(name)
        module.run, module.EXAMPLES, module.FakeArgs = run, examples, args_class
        monkeypatch.setitem(sys.modules, name, module)
        row = registry.Command("dev", "fake", "commands.dev.fake:FakeArgs", "a fake")
        monkeypatch.setattr(registry, "COMMANDS", (*registry.COMMANDS, row))

    return add


@pytest.fixture
def fake_api(monkeypatch):
    """Puts functions in the place of `bitnet_jax.api`; returns the calls they got."""

    def install(**functions):
        api, calls = ModuleType("bitnet_jax.api"), {}

        def recorded(name, function):
            def call(*args, **kwargs):
                calls[name] = (args, kwargs)
                return function(*args, **kwargs) if callable(function) else function

            return call

        for name, function in functions.items():
            setattr(api, name, recorded(name, function))
        monkeypatch.setitem(sys.modules, "bitnet_jax.api", api)
        monkeypatch.setattr(bitnet_jax, "api", api, raising=False)
        return calls

    return install


@pytest.fixture
def built_commands():
    return [(command, *registry.load(command)) for command in registry.built()]
