"""Ctrl-C, SIGTERM, a full disk, another writer: all of the output or none of it.

Real processes, caught while they write: a file of a known name under construction is what
tells that they do.
"""

from __future__ import annotations

import shutil
import signal
import threading

import pytest

from bitnet_jax.core import paths
from tests.e2e.terminal import Folder, finish, here, spawn, start, wait_for
from tests.thin import mostly_heavy

# Real layers, so that writing takes a while; few words, so that nothing else does.
SHAPE = ("bitnet-2b-4t", "--layers", "1", "--vocab-size", "512")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.hf"
    assert here("model", "create", *SHAPE, "-o", path).rc == 0
    yield path
    shutil.rmtree(path)


@pytest.fixture
def place(tmp_path):
    """A folder that holds an older output of each kind."""
    (tmp_path / "old.bitnet").write_text("old")
    (tmp_path / "old.hf").mkdir()
    (tmp_path / "old.hf" / "config.json").write_text("{}")
    return tmp_path


LINES = {
    "to a file": ("convert", "new.bitnet"),
    "to a folder": ("convert", "new.hf"),
    "over a file": ("convert", "old.bitnet", "--force"),
    "over a folder": ("convert", "old.hf", "--force"),
    "create": ("create", "new.hf"),
}


def line_of(words, model):
    command, output, *more = words
    what = SHAPE if command == "create" else (model,)
    return "model", command, *what, "-o", output, *more


SIGNALS = {"INT": (130, "cli.interrupted"), "TERM": (143, "cli.terminated")}
CASES = [("INT", name) for name in LINES] + [("TERM", "to a file"), ("TERM", "over a folder")]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("number", "name"),
    [pytest.param(*case, marks=[pytest.mark.heavy] * bool(n % 2)) for n, case in enumerate(CASES)],
)
def test_a_signal_while_writing_leaves_nothing_and_touches_nothing(number, name, model, place):
    folder = Folder(place)
    process = start(*line_of(LINES[name], model), cwd=place)
    wait_for(place, ".*.tmp", process)
    process.send_signal(signal.Signals[f"SIG{number}"])
    finish(process).refused(*SIGNALS[number])
    folder.check_untouched()


def test_ctrl_c_twice_and_at_any_moment(model, place):
    """Before the work, during it, and again while the first one is being tidied up."""
    folder = Folder(place)
    for delay in (1.0, 1.8):
        process = start("model", "convert", model, "-o", "new.bitnet", cwd=place)
        timers = [
            threading.Timer(after, process.send_signal, (signal.SIGINT,))
            for after in (delay, delay + 0.01)
        ]
        for timer in timers:
            timer.start()
        ended = finish(process)
        for timer in timers:
            timer.cancel()
        if ended.rc == 0:  # a fast machine had done it by then
            for file in place.glob("new.*"):
                file.unlink()
            continue
        # The second may meet a process that is already leaving; a shell calls both 130.
        assert ended.rc in (130, -signal.SIGINT), ended
        assert "Traceback" not in ended.err, ended.err
        folder.check_untouched()


# 3 MB a file: the shell counts in blocks of 512 bytes.
SMALL_DISK = "ulimit -f 6000"


@pytest.mark.parametrize("name", mostly_heavy(LINES, ["to a file", "over a folder", "create"]))
def test_a_disk_that_fills_up_while_writing(name, model, place):
    folder = Folder(place)
    ended = spawn(*line_of(LINES[name], model), cwd=place, first=SMALL_DISK)
    ended.refused(74, "io.disk_full")
    assert ended.out == "" and "free some space" in ended.hint
    folder.check_untouched()


def test_a_disk_that_cannot_hold_it_is_told_before_anything_is_written(model, place, monkeypatch):
    from bitnet_jax.formats import save

    usage = save.shutil.disk_usage(place)._replace(free=1_000_000)
    monkeypatch.setattr(save.shutil, "disk_usage", lambda path: usage)
    monkeypatch.chdir(place)
    folder = Folder(place)
    for name in ("to a file", "to a folder", "over a file", "over a folder"):
        ended = here(*line_of(LINES[name], model)).refused(74, "io.disk_full")
        assert "1000000 are free" in ended.err
    folder.check_untouched()


def test_two_writers_of_one_output_one_of_which_wins(model, place):
    argv = ("model", "convert", model, "-o", "new.bitnet", "--json")
    ended = sorted((finish(process) for process in [start(*argv, cwd=place) for _ in range(2)]),
                   key=lambda one: one.rc)  # fmt: skip
    assert ended[0].rc == 0
    # The slower one finds the other at work, or its finished output.
    assert (ended[1].rc, ended[1].code) in [(75, "io.busy"), (73, "io.exists")]
    assert here("model", "validate", place / "new.bitnet").rc == 0
    assert not list(place.glob(".*"))


def test_an_output_that_another_process_is_writing(model, place, monkeypatch):
    monkeypatch.chdir(place)
    folder = Folder(place)
    with paths.owned(place / "new.bitnet"):
        ended = here("model", "convert", model, "-o", "new.bitnet").refused(75, "io.busy")
    assert "wait" in ended.hint
    folder.check_untouched()


RECIPE = "steps: 2000\nbatch: 2\nlength: 32\ndata: {max_bytes: 600000}\neval_windows: 4\n"


@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGTERM, {75}), pytest.param(signal.SIGINT, {130}, marks=pytest.mark.heavy)],
)
def test_a_signal_in_training_saves_and_the_run_goes_on(number, codes, tmp_path):
    sizes = "model: {vocab_size: 512, hidden_size: 256, intermediate_size: 256, num_layers: 1}\n"
    (tmp_path / "recipe.yaml").write_text(RECIPE + sizes)
    process = start("train", "start", "-c", "recipe.yaml", "-o", "run", cwd=tmp_path)
    metrics = wait_for(tmp_path, "run/metrics.jsonl", process)
    while metrics.stat().st_size == 0 and process.poll() is None:
        threading.Event().wait(0.05)
    process.send_signal(number)
    ended = finish(process)
    assert ended.rc in codes, ended
    assert "Traceback" not in ended.err and "--resume-from" in ended.hint
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "run" / "model.bitnet").exists()
