"""--dump-passes: offered by what compiles a model, and open around the whole command."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from bitnet_cli import registry
from bitnet_jax.core.errors import CannotCreate

# The built commands that compile a model.
OFFERED = {
    "quickstart",
    "model convert",
    "serve generate",
    "serve chat",
    "train start",
    "train qat",
}


@pytest.fixture
def opened(fake_api):
    """A library whose only function says which folder was open when it was called."""
    now, seen = [], []

    @contextlib.contextmanager
    def dump_passes(folder):
        now.append(folder)
        yield
        now.remove(folder)

    def train_start(**options):
        seen.append(list(now))
        return {"step": 1}

    fake_api(dump_passes=dump_passes, train_start=train_start)
    return seen


def test_every_command_that_compiles_a_model_offers_it():
    found = set()
    for command in registry.built():
        _, cls = registry.load(command)
        if any(field.name == "dump_passes" for field in dataclasses.fields(cls)):
            found.add(registry.words(command))
    assert found == OFFERED


def test_the_folder_is_open_while_the_command_runs(bitnet, opened):
    assert bitnet("train", "start", "-c", "r.yaml", "--dump-passes", "stages").rc == 0
    assert opened == [["stages"]]


def test_the_environment_names_it_too(bitnet, opened, monkeypatch):
    monkeypatch.setenv("BITNET_DUMP_PASSES", "elsewhere")
    assert bitnet("train", "start", "-c", "r.yaml").rc == 0
    assert opened == [["elsewhere"]]


def test_not_asked_for_the_library_is_not_asked(bitnet, opened):
    assert bitnet("train", "start", "-c", "r.yaml").rc == 0
    assert opened == [[]]


def test_a_folder_that_is_taken_is_refused_before_the_work(bitnet, fake_api):
    def refuse(folder):
        raise CannotCreate("dump.exists", f"`{folder}` holds files already", "choose another")

    calls = fake_api(dump_passes=refuse, train_start={"step": 1})
    done = bitnet("train", "start", "-c", "r.yaml", "--dump-passes", "d", "--json")
    assert done.rc == 73 and done.envelope["errors"][0]["code"] == "dump.exists"
    assert "train_start" not in calls
