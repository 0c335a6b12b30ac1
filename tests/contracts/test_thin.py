"""The marker `sampled`, in a run of pytest's own."""

from __future__ import annotations

import subprocess
import sys

FILE = """
import pytest

@pytest.mark.sampled(4)
@pytest.mark.parametrize("row", range(10))
@pytest.mark.parametrize("kind", ["a", pytest.param("b", marks=pytest.mark.heavy)])
def test_law(row, kind): ...

@pytest.mark.sampled(4)
def test_alone(): ...
"""
INI = "[pytest]\nmarkers =\n  heavy: x\n  sampled(every): x\n"


def collected(folder, repo, *chosen):
    line = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "tests.thin", *chosen]
    environment = {"PYTHONPATH": str(repo), "PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    return [row for row in done.stdout.splitlines() if "::" in row]


def test_one_row_in_k_is_light_and_each_row_runs_somewhere(repo, tmp_path):
    (tmp_path / "test_rows.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text(INI)
    light, heavy = (collected(tmp_path, repo, "-m", which) for which in ("not heavy", "heavy"))
    assert len({*light, *heavy}) == len(light) + len(heavy) == 21
    assert len([row for row in light if "[a-" in row]) == 3
    assert len(light) == 4  # and the test without rows
    left = next(row for row in heavy if "[a-" in row)
    assert collected(tmp_path, repo, "-m", "not heavy", left) == [left]  # asked for by name
