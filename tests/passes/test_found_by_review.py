"""What a reviewer found wrong without a word, each now right or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData, UsageError

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(4, 32, 16)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(10, 32)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(4, 3, 32)), jnp.float32)


def test_a_lookup_quantized_beside_a_float_product_of_the_same_table_is_refused():
    def tied(p, tokens):
        return p["e"][tokens] @ p["e"].T

    rules = [bj.Rule("e", use="gather", to="int8")]
    with pytest.raises(UsageError, match="also used as floats") as caught:
        bj.ternarize(tied, rules)({"e": TABLE}, jnp.array([1, 2]))
    assert caught.value.code == "quant.lookup"


@pytest.mark.parametrize("fill", [0.0, None])
def test_an_index_out_of_range_is_filled_alike_packed_and_not(fill):
    rules = [bj.Rule("e", use="gather", to="int8"), bj.Rule("w")]
    index = jnp.array([1, 99, 3])

    def model(p, x):
        experts = jnp.take(p["w"], index, axis=0, fill_value=fill)
        rows = jnp.take(p["e"], index, axis=0, fill_value=fill)
        return jnp.einsum("ti,tio->to", x, experts), rows

    params = {"w": W, "e": TABLE}
    want = bj.ternarize(model, rules)(params, X[0])
    got = bj.ternarize(model, rules, mode="packed")(bj.pack(model, params, rules, X[0]), X[0])
    assert np.isnan(want[0][1]).all() == (fill is None)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_filling_that_no_code_can_hold_is_refused():
    def model(p, x):
        experts = jnp.take(p["w"], jnp.array([1, 99, 3]), axis=0, fill_value=7.0)
        return jnp.einsum("ti,tio->to", x, experts)

    with pytest.raises(UsageError, match="`w` cannot be quantized"):
        bj.ternarize(model, [bj.Rule("w")])({"w": W}, X[0])


@pytest.mark.parametrize("devices", [2, 4])
def test_a_stack_of_which_each_device_has_one_element_is_refused(devices):
    mesh = jax.make_mesh((devices,), ("e",), axis_types=(jax.sharding.AxisType.Auto,))

    def model(p, x):
        body = jax.shard_map(
            lambda w, x: jnp.einsum("eti,eio->eto", x, w),
            mesh=mesh,
            in_specs=(P("e"), P("e")),
            out_specs=P("e"),
        )
        return body(p["w"], x)

    qat = bj.ternarize(model, [bj.Rule("w")])
    if devices == 4:
        with pytest.raises(UsageError, match="at least two elements"):
            qat({"w": W}, X)
        return
    whole = bj.ternarize(lambda p, x: jnp.einsum("eti,eio->eto", x, p["w"]), [bj.Rule("w")])
    np.testing.assert_array_equal(qat({"w": W}, X), whole({"w": W}, X))


def test_an_argument_named_as_lambda_is_refused():
    with pytest.raises(UsageError, match="an argument named `lam`"):
        bj.ternarize(lambda p, x, lam: x @ p["w"] * lam, [bj.Rule("w")])


def test_a_function_that_is_ternary_already_is_named_as_such():
    fn = bj.ternarize(lambda p, x: x @ p["w"], [bj.Rule("w")])
    params, x = {"w": jnp.ones((4, 4))}, jnp.ones((2, 4))
    with pytest.raises(UsageError, match="cannot be quantized") as caught:
        bj.ternarize(fn, [bj.Rule("w")])(params, x)
    assert "ternary already" in caught.value.hint


def test_finite_weights_whose_sum_is_not_are_refused():
    with pytest.raises(BadData, match="`w` is no finite number") as caught:
        bj.pack(lambda p, x: x @ p["w"], {"w": jnp.full((4, 4), 1e38)}, [bj.Rule("w")], jnp.ones(4))
    assert caught.value.code == "tensor.scale_not_finite"


def test_a_slice_of_a_stack_and_of_its_outputs_at_once():
    def fn(p, x):
        return x @ p["w"][1, :, :8]

    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 24)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16)), jnp.float32)
    rules = [bj.Rule("w")]
    got = jax.jit(bj.ternarize(fn, rules))({"w": w}, x)
    whole = jax.jit(bj.ternarize(lambda p, x: x @ p["w"], rules))({"w": w[1]}, x)
    np.testing.assert_array_equal(got, whole[:, :8])
    packed = bj.pack(fn, {"w": w}, rules, x)
    np.testing.assert_array_equal(bj.ternarize(fn, rules, mode="packed")(packed, x), got)


@pytest.mark.parametrize("remat", [False, True], ids=["plain", "remat"])
def test_a_scan_that_returns_the_layers_it_went_through(remat):
    """As Flax's `nnx.scan` does: what comes out as it went in is the same parameter."""

    def step(c, w):
        return jax.nn.relu(c @ w), w

    def fn(p, x):
        y, back = jax.lax.scan(jax.checkpoint(step) if remat else step, x, p["w"])
        return y @ back[0]

    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16)), jnp.float32)
    rules = [bj.Rule("w")]

    def plain(p, x):
        for at in (0, 1, 2):
            x = jax.nn.relu(x @ p["w"][at])
        return x @ p["w"][0]

    want = jax.jit(bj.ternarize(plain, rules))({"w": w}, x)
    np.testing.assert_array_equal(jax.jit(bj.ternarize(fn, rules))({"w": w}, x), want)
    packed = bj.pack(fn, {"w": w}, rules, x)
    np.testing.assert_array_equal(bj.ternarize(fn, rules, mode="packed")(packed, x), want)
