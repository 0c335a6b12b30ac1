"""Meshes whose axes are explicit (`jax.make_mesh`'s default): the bits of no mesh, types kept.

A row is a function, how its weights and its input are split, and the type that JAX gives
its result. Value, gradient and packed run must have that type and these bits.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import bitnet_jax as bj
from tests.passes.laws.case import normal
from tests.passes.laws.check import thinned

UP, DOWN, STACK = normal(64, 128, seed=1), normal(128, 64, seed=2), normal(4, 64, 64, seed=3)
X, X3, EACH = normal(8, 64, seed=4), normal(4, 6, 64, seed=5), normal(4, 8, 64, seed=6)


def mlp(p, x):
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def row_parallel(p, x):
    """Both products' contracted axes are split: JAX asks how the result is to lie."""
    hidden = jnp.tanh(x @ p["up"])
    dims = (((hidden.ndim - 1,), (0,)), ((), ()))
    out = P("data") if jax.typeof(x).sharding.mesh.explicit_axes else None
    return lax.dot_general(hidden, p["down"], dims, out_sharding=out)


def scanned(p, x):
    return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["w"])[0]


def rematerialized(p, x):
    return lax.scan(jax.checkpoint(lambda c, w: (c + c @ w, None)), x, p["w"])[0]


def sliced(p, x):
    return x @ p["w"][0, :, :32]


def experts(p, x):
    return jnp.einsum("ebi,eio->ebo", x, p["w"])


PAIR, ONE = {"up": UP, "down": DOWN}, {"w": STACK}
# name: function, parameters, their specs, input, its spec, the result's spec
ROWS = {
    "data parallel": (mlp, PAIR, {}, X, P("data"), P("data", None)),
    "fsdp": (mlp, PAIR, {"up": P("data"), "down": P("data")}, X, P("data"), P("data", None)),
    "columns": (mlp, PAIR, {"up": P(None, "model")}, X, P("data"), P("data", None)),
    "rows": (
        row_parallel, PAIR, {"up": P(None, "model"), "down": P("model")}, X, P("data"),
        P("data", None),
    ),
    "rows and columns, three axes": (
        row_parallel, PAIR, {"up": P("data", "model"), "down": P("model", "data")}, X3,
        P("data"), P("data", None, None),
    ),
    "scan": (scanned, ONE, {"w": P(None, "model")}, X, P("data"), P("data", None)),
    "scan over remat": (rematerialized, ONE, {"w": P(None, "data")}, X, P("data"), P("data", None)),
    "a slice": (sliced, ONE, {"w": P(None, None, "model")}, X, P("data"), P("data", "model")),
    "experts": (
        experts, ONE, {"w": P("model")}, EACH, P("model", "data"), P("model", "data", None),
    ),
}  # fmt: skip
SCALES = ("tensor", "row", "group-32")
CELLS = [(name, "tensor") for name in ROWS] + [("rows", scale) for scale in SCALES[1:]]


def mesh():
    return jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4])


@functools.cache
def without_a_mesh(name, scale):
    fn, params, _, x, _, _ = ROWS[name]
    qat = bj.ternarize(fn, [bj.Rule("**", scale=scale)])
    gradient = jax.grad(lambda p: qat(p, x).sum())
    params = {key: jnp.asarray(value) for key, value in params.items()}
    return np.asarray(jax.jit(qat)(params, x)), jax.jit(gradient)(params)


@pytest.mark.parametrize("cell", thinned(CELLS, 3), ids=map("-".join, CELLS))
def test_value_gradient_and_packed_on_an_explicit_mesh(cell):
    name, scale = cell
    fn, params, specs, x, spec, result = ROWS[name]
    rules = [bj.Rule("**", scale=scale)]
    value, gradients = without_a_mesh(name, scale)
    with jax.set_mesh(mesh()):
        placed = {key: jax.device_put(w, specs.get(key, P())) for key, w in params.items()}
        x = jax.device_put(x, spec)
        qat = bj.ternarize(fn, rules)
        packed = bj.pack(fn, placed, rules, x)
        got = jax.jit(qat)(placed, x)
        run = jax.jit(bj.ternarize(fn, rules, mode="packed"))(packed, x)
        found = jax.jit(jax.grad(lambda p: qat(p, x).sum()))(placed)
    np.testing.assert_array_equal(got, value)
    np.testing.assert_array_equal(run, value)
    assert jax.typeof(got).sharding.spec == result
    for key, gradient in found.items():
        # sums over tokens on two devices, in another order
        np.testing.assert_allclose(gradient, gradients[key], rtol=1e-5, atol=1e-4)
        assert jax.typeof(gradient).sharding.spec == jax.typeof(placed[key]).sharding.spec


def test_packed_codes_lie_as_the_weight_lay():
    fn, params, _, x, spec, _ = ROWS["rows"]
    with jax.set_mesh(mesh()):
        placed = {"up": jax.device_put(UP, P(None, "model")), "down": jax.device_put(DOWN, P())}
        packed = bj.pack(fn, placed, [bj.Rule("**", scale="row")], jax.device_put(x, spec))
    up = packed.ternary()["up"]
    assert up.codes.sharding.spec[0] == "model"  # [out, in]: the weight's columns
    assert up.scale.sharding.spec == P("model")
    assert packed.ternary()["down"].codes.sharding.is_fully_replicated
