"""Checkpoints where the disk is full: one error, however many writes have failed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings

import pytest

from bitnet_jax.train.checkpoint import _system_errors

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
for _ in range(6):
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


def test_a_write_that_was_given_up_before_it_began_is_not_warned_of(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    async def write() -> None: ...

    def forget(name: str) -> None:
        given_up = write()
        given_up.__qualname__ = name
        del given_up
        gc.collect()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(OSError, match="No space"), _system_errors():
            raise ValueError("Failed to write 1 bytes [os_error_code='28']")
        forget("async_serialize_from_host.<locals>.write_fragment")
        forget("another")
    assert ["another" in str(warning.message) for warning in told] == [True]


def test_a_failed_write_that_nobody_waited_for_is_not_told_of_again_and_all_else_is(
    caplog, monkeypatch
):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back afterwards
    full = ValueError("Failed to write 11371 bytes: File too large [os_error_code='27']")

    async def write(error: Exception) -> None:
        raise error

    def forget(*errors: Exception) -> None:
        async def run() -> None:
            tasks = [asyncio.ensure_future(write(error)) for error in errors]
            await asyncio.wait(tasks)

        asyncio.run(run())
        gc.collect()

    with pytest.raises(OSError, match="File too large"), _system_errors():
        forget(full)
        raise full
    forget(full, ValueError("another"))  # those that end late
    assert ["another" in str(record.exc_info[1]) for record in caplog.records] == [True]
    with _system_errors():  # one that goes well puts everything back
        pass
    forget(full)
    assert len(caplog.records) == 2
