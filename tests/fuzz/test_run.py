"""The fuzz targets start, and a short run of each finds nothing; samples survive the way there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.fuzz.samples import join, names_of, split, write_seeds
from tests.hostile.containers import CONTAINERS
from tests.hostile.mutate import Seeded, damage

RUNS = 3000


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_sample_survives_being_one_input(container, tmp_path):
    row, names = CONTAINERS[container], names_of(container)
    for sample in row.seeds().values():
        assert split(join(sample), names) == sample
        kept = dict(list(sample.items())[:1])
        assert split(join(kept), names) == kept
    changed, used = damage(Seeded(1), dict(sample), row.mutations)
    assert used and split(join(changed), names)
    assert split(b"no border", names) == {names[0]: b"no border"}
    write_seeds(container, tmp_path)
    assert len(list(tmp_path.iterdir())) >= len(row.seeds())


@pytest.mark.heavy
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_short_run_finds_nothing(container, repo, tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this machine, or was not installed")
    fuzz = [sys.executable, "-m", "tests.fuzz.run", container, f"-runs={RUNS}", "-seed=1"]
    # By a shell that stays: Linux counts the largest size of whoever starts a program, here of a
    # worker with gigabytes of compiled tests, as the program's own, and libFuzzer limits that.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *fuzz]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"],
        cwd=repo, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS} runs" in done.stderr and not list(tmp_path.iterdir())
