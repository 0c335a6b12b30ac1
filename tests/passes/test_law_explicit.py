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
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import bitnet_jax as bj
from tests.passes.laws import CASES, sharding
from tests.passes.laws.case import normal
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
    return np.asarray(jit(qat)(params, x)), jit(gradient)(params)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("cell", CELLS, ids=map("-".join, CELLS))
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
        got = jit(qat)(placed, x)
        run = jit(bj.ternarize(fn, rules, mode="packed"))(packed, x)
        found = jit(jax.grad(lambda p: qat(p, x).sum()))(placed)
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


@pytest.mark.heavy
@pytest.mark.parametrize("name", list(sharding.MESHES))
def test_the_shard_map_rows_of_the_law_on_an_explicit_mesh(name):
    case = CASES[name]
    params, inputs = arrays(case.params), arrays(case.inputs)
    # JAX 0.10 lets no value of an axis that stays explicit out of an `auto_axes` in shard_map.
    differentiable = name != "shard_map, one axis manual"
    with jax.set_mesh(sharding.mesh(kind=AxisType.Explicit, **sharding.MESHES[name])):
        if differentiable:
            got, value = run_gradients(name, qat_of, 1)
        else:
            value = jit(bj.ternarize(case.fn, case.rules))(params, *inputs)
        if case.packed is True:
            packed = bj.pack(case.fn, params, case.rules, *inputs)
            run = jit(bj.ternarize(case.fn, case.rules, mode="packed"))
            assert_same(run(packed, *inputs), expected(name))
    assert_same(value, expected(name))
    if differentiable:
        assert_near(got, run_gradients(name, twin_of, 1)[0], case)


def test_a_weight_that_is_laid_anew_is_followed():
    def fn(p, x):
        w = jax.sharding.reshard(p["w"], P(None, "model"))
        return jax.sharding.reshard(x @ w, P("data"))

    params, x, rules = {"w": jnp.asarray(UP)}, jnp.asarray(X), [bj.Rule("w", scale="row")]
    want = bj.ternarize(lambda p, x: x @ p["w"], rules)(params, x)
    with jax.set_mesh(mesh()):
        placed = {"w": jax.device_put(UP, P("data"))}
        x = jax.device_put(x, P("data"))
        np.testing.assert_array_equal(jit(bj.ternarize(fn, rules))(placed, x), want)
        packed = bj.pack(fn, placed, rules, x)
        run = jit(bj.ternarize(fn, rules, mode="packed"))
        np.testing.assert_array_equal(run(packed, x), want)


@pytest.mark.parametrize("scale", SCALES)
def test_shard_map_reads_packed_weights_and_scales_as_they_are_laid(scale):
    def fn(p, x):
        body = jax.shard_map(
            lambda x, w: x @ w, in_specs=(P("data", None), P(None, "model")),
            out_specs=P("data", "model"),
        )  # fmt: skip
        return body(x, p["w"])

    rules = [bj.Rule("w", scale=scale)]
    want = bj.ternarize(lambda p, x: x @ p["w"], rules)({"w": jnp.asarray(UP)}, X)
    with jax.set_mesh(mesh()):
        params = {"w": jax.device_put(UP, P(None, "model"))}
        x = jax.device_put(X, P("data", None))
        np.testing.assert_array_equal(jit(bj.ternarize(fn, rules))(params, x), want)
        packed = bj.pack(fn, params, rules, x)
        run = jit(bj.ternarize(fn, rules, mode="packed"))
        np.testing.assert_array_equal(run(packed, x), want)
    # What is packed stands for a weight that lies as this one does.
    assert packed.float_avals()["w"].sharding.spec == P(None, "model")


def test_taps_on_an_explicit_mesh():
    fn, params, specs, x, spec, _ = ROWS["rows"]
    floats = {key: jnp.asarray(w) for key, w in params.items()}
    want = jit(bj.tap(fn, "**:input"))(floats, x)
    with jax.set_mesh(mesh()):
        placed = {key: jax.device_put(w, specs.get(key, P())) for key, w in params.items()}
        got = jit(bj.tap(fn, "**:input"))(placed, jax.device_put(x, spec))
    assert jax.typeof(got[1]["down:input"]).sharding.spec == P("data", "model")
    # sums of two devices' parts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), got, want)


STEPS = (
    bj.SubNorm("**"),
    bj.Hadamard("**"),
    bj.KeepNofM("**"),
    bj.QuantizedActivations("**"),
    bj.LearnedScale("**", scale="row"),
)
# All at once; one by one they are heavy.
RECIPES = {"all": STEPS, **{type(step).__name__: (step,) for step in STEPS}}


@pytest.mark.heavy
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_recipes_on_an_explicit_mesh(recipe):
    fn, params, specs, x, spec, result = ROWS["rows"]
    rules = [bj.Rule("up", scale="row"), bj.Rule("down", scale="row")]

    def outcome(params, x):
        changed, grown = bj.transform(fn, params, RECIPES[recipe], x)
        qat = bj.ternarize(changed, rules)

        def loss(p):
            y = qat(p, x)
            return (y**2).mean(), y

        packed = bj.pack(changed, grown, rules, x)
        run = jit(bj.ternarize(changed, (), mode="packed"))
        (_, value), gradients = jit(jax.value_and_grad(loss, has_aux=True))(grown)
        return grown, run(packed, x), value, gradients

    floats = {key: jnp.asarray(w) for key, w in params.items()}
    _, _, value, gradients = outcome(floats, jnp.asarray(x))
    with jax.set_mesh(mesh()):
        placed = {key: jax.device_put(w, specs.get(key, P())) for key, w in params.items()}
        grown, run, got, theirs = outcome(placed, jax.device_put(x, spec))
    np.testing.assert_array_equal(got, run)
    assert jax.typeof(got).sharding.spec == result
    # A norm and a rotation sum over inputs in another order on two devices: a code may flip.
    np.testing.assert_allclose(got, value, rtol=0, atol=0.02 * float(jnp.abs(value).max()))
    for key, gradient in theirs.items():
        bound = 0.02 * float(jnp.abs(gradients[key]).max())
        np.testing.assert_allclose(gradient, gradients[key], rtol=0, atol=bound)
        assert jax.typeof(gradient).sharding.spec == jax.typeof(grown[key]).sharding.spec
