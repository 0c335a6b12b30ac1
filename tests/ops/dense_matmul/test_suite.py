"""One suite for every implementation and every instruction set this processor has.

The native form's bits are compared with the order of sums written in numpy; the reference's
values, whose order is XLA's, within a bound on the rounding of any order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.dense_matmul import dense_matmul, dense_matmul_p
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.native.selftest import dense_expected
from tests.thin import each_isa

STATUS = native.status()
NATIVE = each_isa("native/")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
# (tokens, out, in): edges of strips, lanes, tiles and units of work.
SHAPES = [(1, 1, 1), (1, 9, 250), (2, 70, 2560), (7, 9, 33), (8, 5, 48), (33, 130, 100)]


@pytest.fixture(params=["reference", *NATIVE])
def form(request, monkeypatch) -> str:
    """Name of an implementation; the native one with one instruction set forced."""
    implementation, _, isa = request.param.partition("/")
    if isa:
        monkeypatch.setenv("BITNET_ISA", isa)
    return implementation


@pytest.fixture(params=NATIVE)
def natively(request, monkeypatch) -> str:
    """The native form with one instruction set forced."""
    monkeypatch.setenv("BITNET_ISA", request.param.partition("/")[2])
    return "native"


@pytest.fixture
def threads(monkeypatch):
    """Sets the number of the library's threads for one test."""
    handle = native.library().handle
    before = handle.bitnet_threads()
    yield lambda count: handle.bitnet_set_threads(count)
    handle.bitnet_set_threads(before)


@pytest.mark.skipif(not STATUS.available, reason=f"no C++ kernels: {STATUS.reason}")
@pytest.mark.parametrize("isa", native.KNOWN_ISAS)
def test_the_suite_runs_on(isa):
    """One skip for each instruction set that the tests below could not run on."""
    if isa not in STATUS.usable_isas:
        pytest.skip(f"this processor lacks {isa}")


def make(rng, tokens: int, out: int, inputs: int, dtype: str = "float32"):
    x = rng.standard_normal((tokens, inputs), np.float32)
    return x, rng.standard_normal((out, inputs), np.float32).astype(DTYPES[dtype])


def run(x, w, form):
    # A new function each time, so that a forced instruction set is seen.
    return np.asarray(jax.jit(lambda x, w: dense_matmul(x, w, implementation=form))(x, w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(rng, form, shape, dtype):
    x, w = make(rng, *shape, dtype)
    y = run(x, w, form)
    if form == "native":
        np.testing.assert_array_equal(y, dense_expected(x, w))
    wide = w.astype(np.float64)
    # Of n products in any order, each rounded: n · 2^-24 of the sum of their sizes.
    bound = shape[2] * 2.0**-24 * (np.abs(x) @ np.abs(wide).T)
    assert (np.abs(y - x.astype(np.float64) @ wide.T) <= bound).all()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tokens_bits_depend_on_no_other_token_and_no_thread(rng, natively, threads, dtype):
    x, w = make(rng, 33, 1030, 272, dtype)
    found = {}
    for count in (1, 2):
        threads(count)
        for tokens in (1, 2, 7, 8, 33):
            found[count, tokens] = np.concatenate(
                [run(x[at : at + tokens], w, natively) for at in range(0, 33, tokens)]
            )
    for y in found.values():
        np.testing.assert_array_equal(y, found[1, 1])


def test_subnormal_numbers_are_kept_on_every_thread(rng, natively):
    x, w = make(rng, 8, 1030, 64)
    x, w = x * np.float32(1e-20), w * np.float32(1e-20)
    y = run(x, w, natively)
    assert (np.abs(y) < np.finfo(np.float32).tiny).all() and y.any(1).all()
    np.testing.assert_array_equal(y, dense_expected(x, w))


def test_a_bad_activation_spoils_its_own_token_and_no_other(rng, form):
    x, w = make(rng, 3, 20, 40)
    good = run(x, w, form)
    x[1, 38] = np.nan
    y = run(x, w, form)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], good[[0, 2]])


def test_axes_of_size_zero_and_leading_axes(rng, form):
    x, w = make(rng, 6, 20, 40)
    want = run(x, w, form)
    assert run(x.reshape(2, 3, 40), w, form).shape == (2, 3, 20)
    np.testing.assert_array_equal(run(x.reshape(2, 3, 40), w, form).reshape(6, 20), want)
    assert run(x[0], w, form).shape == (20,)
    assert run(x[:0], w, form).shape == (0, 20)
    assert run(x, w[:0], form).shape == (6, 0)
    np.testing.assert_array_equal(run(x[:, :0], w[:, :0], form), np.zeros((6, 20)))


def test_vmap_over_tokens_keeps_the_op_and_over_weights_its_values(rng):
    x, w = make(rng, 6, 20, 40)
    x = x.reshape(2, 3, 40)
    mapped = jax.vmap(dense_matmul, (1, None))
    assert dense_matmul_p.name in str(jax.make_jaxpr(mapped)(x, w))
    np.testing.assert_array_equal(
        np.asarray(jax.jit(mapped)(x, w)), np.moveaxis(run(x, w, "auto"), 1, 0)
    )
    many = np.stack([w, 2 * w])
    y = jax.jit(jax.vmap(dense_matmul, (None, 0)))(x[0], many)
    np.testing.assert_allclose(np.asarray(y)[1], 2 * np.asarray(y)[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_is_the_products_and_leaves_the_value_alone(rng, form, dtype):
    x, w = make(rng, 5, 20, 40, dtype)
    target = rng.standard_normal((5, 20), np.float32)

    def loss(x, w):
        y = dense_matmul(x, w, implementation=form)
        return (y * target).sum(), y

    (dx, dw), y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, jnp.asarray(w))
    np.testing.assert_array_equal(np.asarray(y), run(x, w, form))
    assert dw.dtype == w.dtype
    # Sums of at most 20 float32 products in another order; dw is rounded to w's dtype.
    np.testing.assert_allclose(dx, target @ w.astype(np.float32), rtol=1e-5, atol=1e-5)
    step = 2.0**-8 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(np.asarray(dw, np.float32), target.T @ x, rtol=step, atol=1e-5)


def test_the_same_without_jit(rng):
    x, w = make(rng, 3, 20, 40)
    np.testing.assert_array_equal(np.asarray(dense_matmul(x, w)), run(x, w, "auto"))


def test_bfloat16_weights_are_never_held_as_float32(rng):
    if not STATUS.available:
        pytest.fail("no C++ kernels")
    x, w = make(rng, 2, 64, 48, "bfloat16")
    compiled = jax.jit(lambda x, w: dense_matmul(x, w, implementation="native")).lower(x, w)
    text = compiled.compile().as_text()
    assert "bitnet_dense_matmul" in text and "f32[64,48]" not in text


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_lower_without_a_custom_call(rng, platform):
    x, w = make(rng, 2, 20, 40)
    exported = jax.export.export(jax.jit(dense_matmul), platforms=[platform])(x, w)
    assert "stablehlo.custom_call" not in exported.mlir_module()


def bad_calls():
    x, w = np.zeros((2, 40), np.float32), np.zeros((20, 40), np.float32)
    return {
        "op.implementation_unknown": lambda: dense_matmul(x, w, implementation="nativ"),
        "op.shape": lambda: dense_matmul(x[:, :39], w),
        "op.dtype": lambda: dense_matmul(x.astype(np.float16), w),
    }


@pytest.mark.parametrize("code", bad_calls())
def test_bad_calls_are_refused_by_name(code):
    with pytest.raises(UsageError) as caught:
        bad_calls()[code]()
    assert caught.value.code == code
