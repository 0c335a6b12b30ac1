"""Derivatives inside the function, and other derivatives of it than reverse mode."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError
from tests.passes.handwritten import qeinsum
from tests.passes.laws import CASES
from tests.passes.laws.case import IN, OUT, normal, tokens
from tests.passes.laws.check import arrays, assert_near, assert_same, jit, qat_of, twin_of

FORWARD = [
    "matmul",
    "merge of inputs",
    "inputs [5:37] of 40",
    "group scales",
    "scan",
    "fori_loop, w[i]",
    "while_loop",
    "fori_loop with a traced bound",
    "cond and outside",
    "remat, dots_saveable",
    "custom_jvp",
    "custom_jvp whose rule calls the function",
    "ragged_dot",
    "shard_map, rows",
    "twice, other axes",
    "bfloat16 throughout",
]


def push(function, case):
    """Value and directional derivative of ``function(params, inputs, 1)``."""
    params, inputs = arrays(case.params), arrays(case.inputs)
    floats = [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]

    def of_floats(params, chosen):
        full = list(inputs)
        for i, x in zip(floats, chosen, strict=True):
            full[i] = x
        return function(params, full, 1.0)

    point = (params, [inputs[i] for i in floats])
    rng = np.random.default_rng(7)
    tangent = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), point)
    return jit(lambda point, tangent: jax.jvp(of_floats, point, tangent))(point, tangent)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode(name):
    got, want = push(qat_of(name), CASES[name]), push(twin_of(name), CASES[name])
    assert_same(got[0], want[0])
    assert_near(got[1], want[1], CASES[name])


def test_linearize():
    case = CASES["scan"]
    params, (x,) = arrays(case.params), arrays(case.inputs)
    tangent = {"w": jnp.asarray(normal(3, IN, IN, seed=5))}
    value, got = jax.linearize(lambda p: bj.ternarize(case.fn, case.rules)(p, x), params)
    twin, want = jax.linearize(lambda p: case.twin(qeinsum, p, x), params)
    assert_same(value, twin)
    assert_near(got(tangent), want(tangent), case)


def test_gradient_per_example_and_jacobian():
    case = CASES["matmul"]
    params, (x,) = arrays(case.params), arrays(case.inputs)

    def per_example(function):
        return jit(jax.vmap(jax.grad(lambda p, x: (function(p, x[None]) ** 2).sum()), (None, 0)))

    qat = bj.ternarize(case.fn, case.rules)
    got = per_example(qat)(params, x)
    want = per_example(lambda p, x: qeinsum("bi,io->bo", x, p["w"]))(params, x)
    assert_near(got, want, case)
    got = jit(jax.jacrev(lambda x: qat(params, x)))(x)
    assert_near(got, jit(jax.jacfwd(lambda x: qat(params, x)))(x), case)


def inner_gradient(p, x):
    return jax.grad(lambda x: (x @ p["w"]).sum())(x)


def inner_tangent(p, x):
    return jax.jvp(lambda x: x @ p["w"], (x,), (2 * x[::-1],))


@pytest.mark.parametrize("fn", [inner_gradient, inner_tangent])
def test_a_product_with_a_cotangent_or_tangent_is_not_rounded_as_activations_are(fn):
    params, x = {"w": jnp.asarray(normal(IN, OUT))}, jnp.asarray(tokens())
    with pytest.raises(UsageError, match="`w`") as caught:
        bj.ternarize(fn, [bj.Rule("w")])(params, x)
    assert caught.value.code == "transform.derivative_inside"
    assert "test_law_nesting.py" in caught.value.message
    got = jax.grad(lambda x: bj.ternarize(lambda p, x: x @ p["w"], [bj.Rule("w")])(params, x).sum())
    want = jax.grad(lambda x: qeinsum("bi,io->bo", x, params["w"]).sum())
    assert_near(got(x), want(x), CASES["matmul"])  # what its hint says


def test_a_loss_with_an_inner_gradient_step():
    """One step on inner, kept parameters, then the quantized product with the result."""

    def fn(p, x):
        def inner(bias):
            return ((x * p["gain"] + bias) ** 2).sum()

        bias = p["bias"] - 0.5 * jax.grad(inner)(p["bias"])
        return (x + bias) @ p["w"]

    params = arrays({"w": normal(IN, OUT), "gain": np.ones(IN), "bias": normal(IN)})
    x = jnp.round(jnp.asarray(tokens()) * 4) / 4  # sums of four are exact
    params["bias"] = jnp.round(params["bias"] * 4) / 4
    bias = params["bias"] - 0.5 * (2 * (x + params["bias"])).sum(0)
    got = jax.jit(bj.ternarize(fn, [bj.Rule("w")]))(params, x)
    assert_same(got, qeinsum("bi,io->bo", x + bias, params["w"]))


def test_the_transform_of_a_transformed_function():
    """Two transforms with rules of their own do not meet."""

    def fn(p, x):
        return (x @ p["a"]) @ p["b"]

    params = arrays({"a": normal(IN, OUT, seed=1), "b": normal(OUT, 16, seed=2)})
    x = jnp.asarray(tokens())
    inner = bj.ternarize(fn, [bj.Rule("a")])
    got = jax.jit(bj.ternarize(inner, [bj.Rule("b")]))(params, x)
    h = qeinsum("bi,io->bo", x, params["a"])
    assert_same(got, qeinsum("bi,io->bo", h, params["b"]))
