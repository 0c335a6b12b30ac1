"""Every command that writes, with no disk, with no memory, killed: clean errors, whole outputs.

Beside `test_interrupted.py` (signals, and a full disk under conversions): the other commands,
memory, and `kill -9`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time

import pytest

from bitnet_jax.core import paths
from tests.e2e.terminal import Folder, finish, here, spawn, start

RECIPE = """steps: 400
batch: 2
length: 32
checkpoint_every: 3
eval_windows: 2
data: {max_bytes: 600000}
model: {vocab_size: 512, hidden_size: 64, intermediate_size: 64, num_layers: 1}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, a recipe, and an older output of each kind."""
    folder = tmp_path_factory.mktemp("made")
    assert here("model", "create", "tiny", "-l", "1", "-o", folder / "m").rc == 0
    assert here("model", "convert", folder / "m", "-o", folder / "old.bitnet").rc == 0
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "old.json").write_text("{}")
    return folder


@pytest.fixture
def place(made, tmp_path):
    """A folder of its own with all of that."""
    return shutil.copytree(made, tmp_path / "here")


# The command, and the limit of a file in KiB at which its output does not fit.
SMALL_DISKS = {
    "export": ("model inspect m --export-json old.json --force", 2),
    "create": ("model create tiny -o new", 40),
    "create a file": ("model create tiny -o new.bitnet", 40),
    "convert over": ("model convert m -o old.bitnet --force", 40),
    "build": ("dev build --output kernels", 20),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", SMALL_DISKS)
def test_a_full_disk(name, place):
    line, size = SMALL_DISKS[name]
    folder = Folder(place)
    ended = spawn(*line.split(), cwd=place, first=f"ulimit -f {size * 2}")
    if name == "build":  # the compiler meets it, and says so in its own words
        ended.refused(69, "kernel.compile_failed")
    elif name == "export":  # what was found out is shown all the same
        assert (ended.rc, ended.code) == (74, "io.disk_full") and "parameters" in ended.out
    else:
        ended.refused(74, "io.disk_full")
    if name != "build":
        assert "free some space" in ended.hint
    if name.startswith(("create", "convert")):
        assert re.search(r"needs at least \d+ bytes", ended.err)
    folder.check_untouched()


@pytest.mark.heavy
@pytest.mark.parametrize("size", [4, 60])
def test_a_full_disk_under_a_run_leaves_no_half_checkpoint(size, place):
    line = ("train", "start", "-c", "recipe.yaml", "-o", "run", "--quiet")
    ended = spawn(*line, cwd=place, first=f"ulimit -f {size * 2}")
    ended.refused(74, "io.disk_full")
    # The smaller limit ends at the tokenizer, which a run keeps beside its steps.
    assert "cannot write" in ended.err and ("the checkpoint" in ended.err) == (size == 60)
    assert not [path for path in place.rglob("*") if "tmp" in path.name or ".bitnet-" in path.name]


MEMORY = {
    "libraries": ("model inspect m", 300_000),
    "convert": ("model convert m -o old.bitnet --force", 1_000_000),
    "train": ("train start -c recipe.yaml -o run", 1_000_000),
    "generate": ("serve generate m hello", 1_000_000),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", MEMORY)
def test_too_little_address_space(name, place):
    line, size = MEMORY[name]
    folder = Folder(place)
    ended = spawn(*line.split(), cwd=place, first=f"ulimit -v {size}")
    ended.refused(69, "memory.exhausted")
    folder.check_untouched()


# --------------------------------------------------------------------------------- kill -9

heavy = pytest.mark.heavy
KILLED = {
    "convert": "model convert m -o old.bitnet --force",
    "convert to a folder": "model convert old.bitnet -o out -f huggingface --force",
    "create": "model create tiny -o out --force",
    "export": "model inspect m --export-json old.json --force",
}


def littered(place) -> bool:
    return any(path.name.startswith(".bitnet-") for path in place.rglob("*"))


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", [name if name == "convert" else pytest.param(name, marks=heavy) for name in KILLED]
)
def test_killed_at_a_random_moment_old_or_new_and_nothing_else(name, place):
    """The moment is anywhere in the run, most of all where something is being written."""
    luck, line = random.Random(name), KILLED[name].split()
    for number in range(3):
        process = start(*line, cwd=place)
        if number % 2:
            time.sleep(luck.uniform(0.1, 2.0))
        else:
            while process.poll() is None and not littered(place):
                time.sleep(0.001)
            time.sleep(luck.uniform(0, 0.02))
        process.kill()
        process.wait()
        process.communicate()
        check_whole(place)
    assert spawn(*line, cwd=place).rc == 0  # nothing that was left stands in the way
    check_whole(place)
    assert not littered(place)


def check_whole(place) -> None:
    for output in ("m", "old.bitnet", "out"):
        if (place / output).exists():
            assert here("model", "validate", place / output).rc == 0
    json.loads((place / "old.json").read_text())
    receipt = place / "old.receipt.json"
    if receipt.exists():  # one that stands beside the file is the file's
        said = json.loads(receipt.read_text())["digest_after"]
        assert here("model", "inspect", place / "old.bitnet", "--json").data["digest"] == said


@pytest.mark.heavy
def test_a_run_killed_among_its_checkpoints_goes_on_and_tidies_up(place):
    line, luck = ("train", "start", "-c", "recipe.yaml", "-o", "run"), random.Random(1)
    for _ in range(3):
        process = start(*line, cwd=place)
        deadline = time.monotonic() + 120
        before = newest(place)
        while process.poll() is None and newest(place) < before + 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(luck.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.communicate()
        assert newest(place) >= before
        line = ("train", "start", "-c", "recipe.yaml", "--resume-from", "run")
    (place / "run" / "checkpoints" / "9999.orbax-checkpoint-tmp").mkdir()
    done = spawn(*line, cwd=place)
    assert done.rc == 0, done.err
    assert (place / "run" / "model.bitnet").exists() and not littered(place)
    assert not list((place / "run" / "checkpoints").glob("*tmp*"))
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)


def newest(place) -> int:
    folder = place / "run" / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


@pytest.mark.heavy
def test_a_second_run_in_the_same_folder_is_busy(place):
    (place / "run").mkdir()
    with paths.owned(place / "run"):
        ended = spawn("train", "start", "-c", "recipe.yaml", "-o", "run", cwd=place)
    ended.refused(75, "io.busy")
    assert list((place / "run").iterdir()) == []


@pytest.mark.heavy
def test_a_build_that_is_killed_is_built_again(place):
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise AssertionError("the tests need a C++ compiler")
    process = start("dev", "build", "--output", "kernels", cwd=place)
    deadline = time.monotonic() + 60
    while process.poll() is None and not littered(place):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not list((place / "kernels").glob("*.so"))
    assert finish(start("dev", "build", "--output", "kernels", cwd=place)).rc == 0
    assert not littered(place) and not (place / "kernels" / ".lock").exists()


# ------------------------------------------------------------------------------- --log-file


def test_a_log_that_cannot_be_written(place):
    os.mkfifo(place / "fifo")
    ended = spawn("model", "inspect", "m", "--log-file", "fifo", cwd=place)
    ended.refused(74, "io.failed")  # and nobody waits for a reader
    (place / "plug.py").write_text(
        "import logging\nlogging.getLogger('bitnet_jax').warning('hello')\nFAMILIES = ()\n"
    )
    ended = spawn(
        "model", "inspect", "m", "--log-file", "/dev/full", "--plugin", "plug.py", cwd=place
    )
    assert "Traceback" not in ended.err and ended.err.count("cannot write the log") == 1
