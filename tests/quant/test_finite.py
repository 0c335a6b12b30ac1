"""What is a number and what is none, in every dtype that a file may hold."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.quant.finite import count_not_finite, is_finite


@pytest.mark.parametrize("bits", [0x7F80, 0x7F81, 0x7FC0, 0xFF81])
def test_every_bfloat16_that_is_no_number_is_counted(bits):
    """A signalling NaN too, of which numpy's own `isfinite` only warns."""
    values = np.ones(2**17 + 5, np.uint16)
    values[[3, -1]] = bits
    assert not is_finite(values.view(ml_dtypes.bfloat16))
    assert count_not_finite(values.view(ml_dtypes.bfloat16)) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_numbers_and_no_numbers(dtype):
    values = np.linspace(-3, 3, 2**17 + 5).astype(dtype).reshape(-1, 1)
    assert is_finite(values)
    assert count_not_finite(values) == 0
    values[[0, 7, -1], 0] = np.inf, -np.inf, np.nan
    assert not is_finite(values)
    assert count_not_finite(values) == 3
