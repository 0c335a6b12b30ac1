"""The native norm: numpy's bits in the written order, close to the reference, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.ops import rms_norm as op
from bitnet_jax.ops.rms_norm.reference import rms_norm_reference
from tests.ops.order import rms_norm as in_order
from tests.thin import each_isa

EPS = 1e-5


def rms_norm(x, weight, *, eps):
    """The op as the engine binds it."""
    return op.rms_norm(x, weight, eps=eps, implementation="auto")


@pytest.fixture(params=each_isa())
def isa(request, monkeypatch):
    monkeypatch.setenv("BITNET_ISA", request.param)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("width", [1, 16, 63, 64, 130, 2560])
def test_equals_numpy_in_the_written_order(isa, rng, width):
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((3, 2, width), (width,)))
    y = np.asarray(rms_norm(x, weight, eps=EPS))
    want = np.stack([in_order(row, weight, EPS) for row in x.reshape(-1, width)])
    assert np.array_equal(y.reshape(-1, width), want)
    np.testing.assert_allclose(y, rms_norm_reference(x, weight, eps=EPS), rtol=2e-6)


def test_a_row_depends_on_no_other(rng):
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((33, 200), (200,)))
    whole = np.asarray(rms_norm(x, weight, eps=EPS))
    for rows in (1, 2, 7, 8):
        assert np.array_equal(np.asarray(rms_norm(x[:rows], weight, eps=EPS)), whole[:rows])


def test_nan_stays_in_its_row(rng):
    x = rng.standard_normal((2, 64), np.float32)
    x[0, 3] = np.nan
    y = np.asarray(rms_norm(x, np.ones(64, np.float32), eps=EPS))
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()


def test_other_dtypes_and_derivatives_are_the_reference(rng):
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((2, 48), (48,)))
    half = jnp.asarray(x, jnp.bfloat16)
    assert rms_norm(half, weight, eps=EPS).dtype == jnp.bfloat16

    def total(norm):
        return jax.grad(lambda x: (norm(x, weight, eps=EPS) ** 3).sum())(x)

    np.testing.assert_array_equal(total(rms_norm), total(rms_norm_reference))


def test_subnormal_numbers_are_kept_on_every_thread(rng):
    """XLA's own threads flush them: a result must not tell which thread made it."""
    x = np.full((4096, 64), np.float32(1e-17))
    weight = np.full(64, np.float32(1e-38))  # subnormal, and so are all results
    y = np.asarray(rms_norm(x, weight, eps=1e-34))
    assert (y != 0).all() and len(np.unique(y)) == 1
