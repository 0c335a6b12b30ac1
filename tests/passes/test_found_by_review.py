"""What a reviewer found wrong without a word, each now right or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError

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
