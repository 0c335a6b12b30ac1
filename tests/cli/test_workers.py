"""Several calls at once: each in a process, each with its own end."""

import io
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from bitnet_cli import workers
from bitnet_cli.config import Setting
from bitnet_cli.context import Context, Streams
from bitnet_cli.progress import Progress
from tests.cli.calls import call

ARGS = SimpleNamespace(plugin=[])


@pytest.fixture
def ctx(tmp_path):
    streams = Streams(io.StringIO(), io.StringIO(), io.StringIO())
    return Context(
        "model inspect", tmp_path, {"debug": Setting(False, "default")}, Progress(), streams
    )


def run(ctx, models, at_once):
    return dict(workers.run({i: (call, m, ARGS) for i, m in enumerate(models)}, ctx, at_once))


def test_each_ends_in_its_own_way_and_stops_no_other(ctx, capfd):
    done = run(ctx, ["a", "bad", "killed", "b"], 2)
    assert sorted(done) == [0, 1, 2, 3]
    assert done[0].data["model"] == "a" and done[3].data["model"] == "b"
    assert len({done[0].data["pid"], done[3].data["pid"], os.getpid()}) == 3
    assert done[0].warnings == ["a is looked at"]
    assert (done[1].exit_code, done[1].errors[0]["code"]) == (65, "model.bad")
    assert (done[2].exit_code, done[2].errors[0]["code"]) == (69, "batch.worker_died")
    assert "killed by the system" in done[2].errors[0]["message"]
    out, _ = capfd.readouterr()
    assert out == ""  # stdout is the parent's, for data


def test_stopping_stops_them_and_lets_them_tidy_up(ctx, tmp_path):
    calls = {i: (call, str(tmp_path / f"slow{i}"), ARGS) for i in range(3)}
    gone = workers.run({**calls, 9: (call, "a", ARGS)}, ctx, 4)
    assert next(gone)[0] == 9
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    gone.close()
    assert len(list(tmp_path.glob("*.tidied"))) == 3


def test_none_of_them_imports_jax_unasked():
    code = "import bitnet_cli.batch, bitnet_cli.workers, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
