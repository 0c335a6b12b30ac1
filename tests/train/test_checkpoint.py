"""Checkpoints where the disk is full: one error, however many writes have failed."""

from __future__ import annotations

import subprocess
import sys

SAVES = """
import gc, resource, signal, sys
from pathlib import Path
import numpy as np
from bitnet_jax.core.errors import IOFailure
from bitnet_jax.train import checkpoint
from bitnet_jax.train.config import OptimizerConfig
from bitnet_jax.train.data import DataState
from bitnet_jax.train.schedule import Plan
from bitnet_jax.train.step import init_state

params = {f"w{i}": np.random.default_rng(i).normal(size=(64, 64)).astype("f4") for i in range(12)}
state = init_state(params, OptimizerConfig())
host = checkpoint.HostState(1, DataState(0), Plan(((0, 10),)))
folder = Path("checkpoints")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for _ in range(10):
    try:
        checkpoint.save(folder, state, host)
        raise SystemExit("it was saved")
    except IOFailure as error:
        assert error.code == "io.disk_full"
    gc.collect()
assert not list(folder.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoint.save(folder, state, host)
assert checkpoint.list_steps(folder) == [1]
"""


def test_writes_that_fail_together_are_told_of_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAVES], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
