"""A second start in a process of its own takes what the first one compiled."""

import os
from pathlib import Path

from tests.e2e.terminal import here, spawn


def test_what_one_process_compiled_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # else JAX keeps it, not we
    # Sizes of no other test: nobody has compiled this before.
    here("model", "create", "tiny", "--layers", "1", "--vocab-size", "523", "-o", tmp_path / "m")
    kept = Path(os.environ["BITNET_CACHE_DIR"]) / "executables"
    line = ("serve", "generate", "m", "once upon", "-n", "9", "--json")
    before = set(kept.glob("*"))
    first = spawn(*line, cwd=tmp_path).data
    made = set(kept.glob("*")) - before
    # The key holds all sources and versions: an earlier run of this very tree may have made them.
    assert made or before
    ages = {path: path.stat().st_mtime_ns for path in kept.glob("*")}
    second = spawn(*line, cwd=tmp_path).data
    assert second["text"] == first["text"] and second["tokens"] == first["tokens"]
    assert set(kept.glob("*")) == set(ages)
    taken = [path for path, age in ages.items() if path.stat().st_mtime_ns > age]
    assert len(taken) == 3  # prefill, decode and the choice of the likeliest token
