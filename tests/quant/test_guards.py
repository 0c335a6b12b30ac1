"""What XLA must not rewrite, seen from numpy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.quant.guards import barrier, round_scale, uncontracted


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=lambda d: np.dtype(d).name)
def test_rounding_is_a_cast_there_and_back_on_every_scale_of_numbers(dtype):
    name = np.dtype(dtype).name
    rng = np.random.default_rng(0)
    # 2^-30 to 2^17: below, inside and above what float16 holds, with its subnormals.
    x = rng.standard_normal(20_000, np.float32) * np.exp2(rng.integers(-30, 15, 20_000))
    ties = (np.arange(-2049, 2050) * 2.0**-25).astype(np.float32)  # halves of its smallest step
    x = np.concatenate([x.astype(np.float32), ties, np.float32([0, -0.0, np.inf, -np.inf, np.nan])])
    with np.errstate(over="ignore"):
        want = x.astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(round_scale(x, name), want)
    for found in (round_scale(jnp.asarray(x), name), jax.jit(lambda x: round_scale(x, name))(x)):
        np.testing.assert_array_equal(np.asarray(found), want)


def test_a_sum_after_a_product_rounds_twice():
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((3, 10_000), np.float32)
    found = jax.jit(lambda x, y, z: uncontracted(x * y, x) + z)(x, y, z)
    np.testing.assert_array_equal(np.asarray(found), x * y + z)
    np.testing.assert_array_equal(uncontracted(x * y, x), x * y)


def test_what_is_not_finite_stays_so():
    finite = np.float32([1, np.inf, np.nan])
    y = np.float32([2, 3, 4])
    for found in (uncontracted(y, finite), jax.jit(uncontracted)(y, finite)):
        np.testing.assert_array_equal(np.asarray(found), [2, np.nan, np.nan])
    assert barrier(y) is y


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UsageError) as caught:
        round_scale(np.ones(2, np.float32), "float8")
    assert caught.value.code == "quant.scale_dtype"
