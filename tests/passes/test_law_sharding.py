"""Shardings that the user wrote are those of the compiled quantized function."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import bitnet_jax as bj
from tests.passes.handwritten import qeinsum
from tests.passes.laws import CASES
from tests.passes.laws.case import IN, normal, tokens
from tests.passes.laws.check import arrays, assert_same, expected
from tests.passes.laws.sharding import mesh

RULES = [bj.Rule("w*")]


def test_there_are_four_devices():
    assert len(jax.devices()) >= 4


@pytest.mark.parametrize(
    "name",
    [
        "jit with shardings",
        "with_sharding_constraint on y",
        "shard_map, columns of 16",
        "shard_map, rows and columns",
        "shard_map inside jit",
    ],
)
def test_the_result_lies_where_that_of_the_function_lies(name):
    case = CASES[name]
    args = (arrays(case.params), *arrays(case.inputs))
    want = jax.jit(case.fn)(*args)
    got = jax.jit(bj.ternarize(case.fn, case.rules))(*args)
    assert len(want.sharding.device_set) > 1
    assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_the_shardings_of_an_inner_jit_are_in_the_program():
    case = CASES["jit with shardings"]
    args = (arrays(case.params), *arrays(case.inputs))

    def marks(function):
        text = jax.jit(function).lower(*args).as_text()
        return text.count("sdy.sharding_constraint") + text.count("@Sharding")

    assert marks(case.fn) > 0
    assert marks(bj.ternarize(case.fn, case.rules)) >= marks(case.fn)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "spec", [P("m", None), P(None, "m"), P("m", "n"), P(("m", "n"), None)], ids=str
)
def test_parameters_that_lie_on_several_devices(spec):
    """The compiler's own partitioning: the same bits, and gradients that lie as they do."""

    def fn(p, x):
        return x @ p["w"]

    at = functools.partial(NamedSharding, mesh(m=2, n=2))
    w, x = jnp.asarray(normal(IN, 24)), jnp.asarray(tokens())
    want = qeinsum("bi,io->bo", x, w)
    params = {"w": jax.device_put(w, at(spec))}
    x = jax.device_put(x, at(P("n", None)) if "n" not in str(spec) else at(P()))
    qat = bj.ternarize(fn, RULES)
    assert_same(jax.jit(qat)(params, x), want)
    gradient = jax.jit(jax.grad(lambda p: (qat(p, x) ** 2).sum()))(params)["w"]
    plain = jax.grad(lambda w: (qeinsum("bi,io->bo", x, w) ** 2).sum())(w)
    np.testing.assert_allclose(gradient, plain, rtol=0, atol=2e-6 * float(jnp.abs(plain).max()))


def test_data_parallel_tokens_share_no_activation_scale():
    def fn(p, x):
        return x @ p["w"]

    at = functools.partial(NamedSharding, mesh(m=4))
    w, x = jnp.asarray(normal(IN, 24)), jnp.asarray(tokens(8, IN))
    sharded = jax.device_put(x, at(P("m")))
    got = jax.jit(bj.ternarize(fn, RULES))({"w": jax.device_put(w, at(P()))}, sharded)
    assert_same(got, qeinsum("bi,io->bo", x, w))


def test_a_scale_is_not_computed_again_in_each_shard():
    """22 % off in one try: the mean of a shard is not the mean of the weight."""
    w = normal(IN, 32)
    w[:16] *= 8  # the halves differ widely

    def rows(p, x):
        return jax.shard_map(
            lambda x, w: lax.psum(x @ w, "m"),
            mesh=mesh(m=2),
            in_specs=(P(None, "m"), P("m", None)),
            out_specs=P(),
        )(x, p["w"])

    case = CASES["shard_map, rows"]
    params, x = {"w": jnp.asarray(w)}, jnp.asarray(tokens())
    assert_same(jax.jit(bj.ternarize(rows, RULES))(params, x), case.twin(qeinsum, params, x))


def test_a_gradient_under_shard_map_under_jit_equals_that_of_one_device():
    case = CASES["shard_map, columns then rows"]
    params, (x,) = arrays(case.params), arrays(case.inputs)

    def loss(function):
        return jax.jit(jax.grad(lambda p, x: (function(p, x) ** 2).sum(), (0, 1)))

    got = loss(bj.ternarize(case.fn, case.rules))(params, x)
    want = loss(lambda p, x: case.twin(qeinsum, p, x))(params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * float(jnp.abs(b).max()))
    assert_same(case.twin(qeinsum, params, x), expected("shard_map, columns then rows"))
