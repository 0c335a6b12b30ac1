"""The library's threads: awake while calls follow each other, asleep when none comes."""

import time

import numpy as np
import pytest

from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.native.rows_quantize import quantize_rows
from tests.ops.native.threads import threads


@pytest.mark.skipif(not native.status().available, reason="no C++ kernels here")
def test_nothing_spins_while_nothing_runs(rng):
    w = rng.standard_normal((512, 256)).astype(np.float32)
    with threads(4):
        for _ in range(50):
            quantize_rows([w], w.shape, "int8")
        time.sleep(0.01)  # they stay awake for a moment, in case the next call comes at once
        begun = time.process_time()  # of all threads of this process
        time.sleep(0.5)
        spent = time.process_time() - begun
    assert spent < 0.05, f"{spent:.3f} s of processor time while asleep for 0.5 s"
