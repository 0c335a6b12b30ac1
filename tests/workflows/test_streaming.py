"""A conversion's memory at a real model's shape: some tensors, never the model."""

import subprocess
import sys

import pytest

from bitnet_jax.workflows.create import create

SCRIPT = """
import os, sys
from bitnet_jax.core.pages import peak_resident
from bitnet_jax.workflows.convert import convert
record = convert(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]))
assert record["max_logit_difference"] == 0 and record["probe"]["products"]
print(peak_resident(os.getpid()))
"""
LARGEST = 128256 * 4096 * 2  # the embedding, and the head
BASE = 300_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One layer of the 8B shape, with its whole vocabulary: its largest tensors are all there."""
    path = tmp_path_factory.mktemp("model") / "m.hf"
    create(shape="8b", layers=1, output=path)
    return path


@pytest.mark.heavy
def test_the_peak_at_the_8b_shape(model, tmp_path):
    for source, target, jobs in ((model, "m.bitnet", 4), (tmp_path / "m.bitnet", "n.hf", 1)):
        argv = [sys.executable, "-c", SCRIPT, source, tmp_path / target, str(jobs)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
        peak = int(done.stdout)
        assert peak <= 3 * LARGEST + BASE
        # What is claimed is more than what is needed: no table is held whole, by the probe neither.
        assert peak <= LARGEST, f"{peak} bytes"
