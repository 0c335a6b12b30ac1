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


@pytest.mark.sampled(2)
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


@pytest.mark.sampled(2)
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


@pytest.mark.sampled(2)
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


CARRIED = {
    "while": lambda p, x, o: jax.lax.while_loop(
        lambda c: c[0] < 2,
        lambda c: (c[0] + 1, jax.nn.relu(c[1] @ c[2]), o),
        (0, x + p["w"][jnp.arange(2)], p["w"]),
    )[1],
    "scan": lambda p, x, o: jax.lax.scan(
        lambda c, _: ((jax.nn.relu(c[0] @ c[1]), o), None),
        (x + p["w"][jnp.arange(2)], p["w"]),
        None,
        length=2,
    )[0][0],
}


@pytest.mark.parametrize("loop", CARRIED)
def test_a_weight_that_a_loop_replaces_is_refused_though_it_is_looked_up_too(loop):
    w = jnp.asarray(RNG.normal(size=(16, 16)), jnp.float32)
    with pytest.raises(UsageError, match=f"it reaches `{loop}`") as caught:
        bj.ternarize(CARRIED[loop], [bj.Rule("**")])({"w": w}, jnp.ones((2, 16)), w)
    assert caught.value.code == "transform.unfollowable"


def test_a_scan_over_merged_axes_is_refused_though_a_callback_looks_at_the_stack():
    def fn(p, x):
        jax.debug.callback(lambda w: None, p["w"])
        stack = p["w"].reshape(4, 16, 16)
        return jax.lax.scan(lambda c, w: (jax.nn.relu(c @ w), None), x, stack)[0]

    w = jnp.asarray(RNG.normal(size=(2, 2, 16, 16)), jnp.float32)
    with pytest.raises(UsageError, match="it reaches `scan`"):
        bj.ternarize(fn, [bj.Rule("**")])({"w": w}, jnp.ones((2, 16)))


def test_a_stack_that_was_split_and_merged_again_is_the_stack():
    def fn(p, x):
        stack = p["w"].reshape(2, 2, 16, 16).reshape(4, 16, 16)
        return jax.lax.scan(lambda c, w: (jax.nn.relu(c @ w), None), x, stack)[0]

    def plain(p, x):
        return jax.lax.scan(lambda c, w: (jax.nn.relu(c @ w), None), x, p["w"])[0]

    w, rules = jnp.asarray(RNG.normal(size=(4, 16, 16)), jnp.float32), [bj.Rule("**")]
    x = jnp.asarray(RNG.normal(size=(2, 16)), jnp.float32)
    want = bj.ternarize(plain, rules)({"w": w}, x)
    np.testing.assert_array_equal(bj.ternarize(fn, rules)({"w": w}, x), want)
    packed = bj.pack(fn, {"w": w}, rules, x)
    np.testing.assert_array_equal(bj.ternarize(fn, rules, mode="packed")(packed, x), want)


CHOSEN = {
    "columns": lambda p, x: x @ p["w"][:, jnp.arange(16)[::-1]] + x @ p["v"],
    "a row of kernels": lambda p, x: x @ p["k"][x[0, 0].astype(int)] + x @ p["v"],
    "a branch": lambda p, x: x @ jax.lax.cond(x[0, 0] > 0, lambda a: a[0], lambda a: a[1], p["k"]),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_parts_that_an_index_or_a_branch_chooses_are_no_table_under_a_wildcard(case):
    shapes = {"w": (16, 16), "v": (16, 16), "k": (3, 16, 1)}
    params = {n: jnp.asarray(RNG.normal(size=s), jnp.float32) for n, s in shapes.items()}
    x = jnp.asarray(RNG.normal(size=(2, 16)), jnp.float32)
    with pytest.raises(UsageError, match="cannot be quantized"):
        bj.ternarize(CHOSEN[case], [bj.Rule("**")])(params, x)


def test_a_derivative_rule_that_mixes_value_and_tangent_in_a_loop_is_refused():
    def g(w, x):
        return jax.lax.scan(lambda c, _: (jax.nn.relu(c @ w), None), x, None, length=2)[0]

    f = jax.custom_jvp(g)
    f.defjvp(lambda primals, tangents: jax.jvp(g, primals, tangents))
    qat = bj.ternarize(lambda p, x: f(p["w"], x), [bj.Rule("**")])
    params = {"w": jnp.asarray(RNG.normal(size=(16, 16)), jnp.float32)}
    x = jnp.ones((2, 16))
    assert qat(params, x).shape == (2, 16)
    with pytest.raises(UsageError, match=r"test_found_by_review.py:\d+") as caught:
        jax.grad(lambda p: qat(p, x).sum())(params)
    assert caught.value.code == "transform.derivative_mixed"
