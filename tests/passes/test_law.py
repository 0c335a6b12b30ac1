"""The law: value and gradient equal the hand-written quantized function, for every construct.

The rows stand in `laws/`; `test_law_modes.py` runs them packed and under vmap.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError
from tests.passes.handwritten import qeinsum
from tests.passes.laws import CASES
from tests.passes.laws.check import (
    arrays,
    assert_near,
    assert_same,
    expected,
    jit,
    qat_of,
    run_gradients,
    twin_of,
)

DIFFERENTIABLE = [name for name, case in CASES.items() if case.gradient == "all"]


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", list(CASES))
def test_value_under_jit(name):
    case = CASES[name]
    qat = jax.jit(bj.ternarize(case.fn, case.rules))
    assert_same(qat(arrays(case.params), *arrays(case.inputs), **case.kwargs), expected(name))


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.eager])
def test_value_without_jit(name):
    case = CASES[name]
    qat = bj.ternarize(case.fn, case.rules)
    assert_same(qat(arrays(case.params), *arrays(case.inputs), **case.kwargs), expected(name))


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_value_and_gradient_in_one_jit(name):
    got, value = run_gradients(name, qat_of, 1)
    want, twin_value = run_gradients(name, twin_of, 1)
    assert_same(value, twin_value)  # not `expected`: a forward rule may be another function
    assert_near(got, want, CASES[name])


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_traced_lambda_blends(name):
    got = run_gradients(name, qat_of, 0.3)
    assert_near(got, run_gradients(name, twin_of, 0.3), CASES[name])


def function_of(name):
    """``f(params, inputs, λ)``: the function as it was written."""
    case = CASES[name]
    return lambda p, inputs, lam: case.fn(p, *inputs, **case.kwargs)


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_the_twin_is_the_function_itself_at_lambda_0(name):
    case = CASES[name]
    if name in DIFFERENTIABLE:
        function, twin = (run_gradients(name, of, 0) for of in (function_of, twin_of))
    else:
        function, twin = (
            jit(lambda p, inputs, of=of: of(name)(p, inputs, 0.0))(
                arrays(case.params), arrays(case.inputs)
            )
            for of in (function_of, twin_of)
        )
    if name == "cast there and back":
        # The parameter itself is quantized, and so is its gradient no float16's: the function's
        # is, of the very same values, within one step of it.
        by_function, by_twin = function[0][0].pop("w"), twin[0][0].pop("w")
        step = np.finfo(np.float16).eps
        np.testing.assert_allclose(by_twin.astype(np.float16), by_function, rtol=step, atol=step**2)
    # each value is scaled to integers and back on its way: twice as many roundings
    assert_near(twin, function, case, slack=8)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", CASES)
def test_the_twin_is_not_the_function_at_lambda_1(name):
    case = CASES[name]
    if name in DIFFERENTIABLE:
        _, value = run_gradients(name, twin_of, 0)
    else:
        value = jit(case.fn)(arrays(case.params), *arrays(case.inputs), **case.kwargs)
    pairs = zip(jax.tree.leaves(value), jax.tree.leaves(expected(name)), strict=True)
    differs = [
        not np.allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-2)
        for a, b in pairs
    ]
    assert any(differs) != case.float_here


def gradient_error(function, params, inputs):
    @jax.jit  # eager, a bound that is an array is a static one
    def loss(params, inputs):
        return sum(y.sum() for y in jax.tree.leaves(function(params, *inputs)))

    with pytest.raises(Exception) as caught:
        jax.grad(loss)(params, inputs)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.gradient == "as the function"]
)
def test_gradient_raises_what_the_function_itself_raises(name):
    case = CASES[name]
    params, inputs = arrays(case.params), arrays(case.inputs)
    want = gradient_error(case.fn, params, inputs)
    assert gradient_error(bj.ternarize(case.fn, case.rules), params, inputs) == want


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "." in case.gradient])
def test_gradient_is_refused(name):
    """Under jit, JAX refuses these as well; here the error says why, and where."""
    case = CASES[name]
    params, inputs = arrays(case.params), arrays(case.inputs)
    with pytest.raises((TypeError, jax.errors.UnexpectedTracerError)):
        jax.grad(lambda x: jax.jit(case.fn)(params, x).sum())(*inputs)
    qat = bj.ternarize(case.fn, case.rules)
    with pytest.raises(UsageError, match=r"custom.py:\d+") as caught:
        jax.grad(lambda x: qat(params, x).sum())(*inputs)
    assert caught.value.code == case.gradient


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["matmul", "scan", "row scales", "group scales"])
def test_the_jitted_twin_has_the_bits_of_one_operation_at_a_time(name):
    case = CASES[name]
    plain = case.twin(qeinsum, arrays(case.params), *arrays(case.inputs), **case.kwargs)
    assert_same(plain, expected(name))
