"""The library's threads: awake while calls follow each other, asleep when none comes."""

import subprocess
import sys

import pytest

from bitnet_jax.ops.native import library as native

# In a process of its own: what other tests and libraries started must not count.
ASLEEP = """
import time
import numpy as np
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.native.rows_quantize import quantize_rows
w = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
native.set_threads(4)
for _ in range(50):
    quantize_rows([w], w.shape, "int8")
time.sleep(0.01)  # they stay awake for a moment, in case the next call comes at once
begun = time.process_time()  # of all threads of this process
time.sleep(0.5)
print(time.process_time() - begun)
"""


@pytest.mark.skipif(not native.status().available, reason="no C++ kernels here")
def test_nothing_spins_while_nothing_runs(repo):
    line = [sys.executable, "-c", ASLEEP]
    done = subprocess.run(line, cwd=repo, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 0.05, "seconds of processor time while asleep for 0.5"
