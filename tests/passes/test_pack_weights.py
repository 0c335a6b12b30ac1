"""Packed runs must equal the training forward, bit for bit, wherever the law holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.ir.program import trace
from bitnet_jax.ir.verify import verify
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.pack_weights import pack_weights
from bitnet_jax.passes.packed import Packed
from bitnet_jax.passes.quantize_linears import quantize_linears
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.digest import digest
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.tensor import QuantTensor
from tests.passes.test_quantize_linears import CASES, RULES, normal


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES)
def test_packed_equals_the_training_forward(case):
    fn, _, w_shape, x_shape = CASES[case]
    params, x = {"w": normal(*w_shape)}, normal(*x_shape, seed=1)
    packed = pack(fn, params, RULES, x)
    run = jax.jit(ternarize(fn, RULES, mode="packed"))
    np.testing.assert_array_equal(run(packed, x), jax.jit(ternarize(fn, RULES))(params, x))
    (quant,) = packed.ternary().values()
    quant.verify("w")
    trits_times_scale = quant.dequantize()
    assert trits_times_scale.shape == w_shape
    assert len(np.unique(np.abs(trits_times_scale))) <= 1 + max(quant.scale.size, 1)


@pytest.mark.parametrize("scale", ["row", "group-16"])
def test_row_and_group_scales(scale):
    fn = CASES["out_in"][0]
    params, x = {"w": normal(24, 64)}, normal(5, 64, seed=1)
    rules = [Rule("w", scale=scale)]
    packed = pack(fn, params, rules, x)
    got = jax.jit(ternarize(fn, rules, mode="packed"))(packed, x)
    np.testing.assert_array_equal(got, jax.jit(ternarize(fn, rules))(params, x))


def test_however_stored_the_same_weight_has_the_same_digest():
    x, w = normal(5, 12, seed=1), normal(8, 12)
    stored = {
        "out_in": (lambda p, x: x @ p["w"].T, w),
        "in_out": (lambda p, x: x @ p["w"], w.T),
        "heads": (lambda p, x: jnp.einsum("bi,ihd->bhd", x, p["w"]), w.T.reshape(12, 2, 4)),
    }
    found = {digest(pack(fn, {"w": value}, RULES, x).ternary()) for fn, value in stored.values()}
    assert len(found) == 1


def test_a_scanned_stack_has_a_scale_per_element():
    fn, _, w_shape, x_shape = CASES["scan"]
    packed = pack(fn, {"w": normal(*w_shape)}, RULES, jnp.zeros(x_shape))
    quant = packed.leaves["w"]
    assert (quant.stack_axes, quant.out_axes, quant.in_axes) == ((0,), (1,), (2,))
    assert quant.scale.shape == (3,)
    assert len(set(np.asarray(quant.scale).tolist())) == 3


def tied(p, tokens):
    return jnp.take(p["embed"], tokens, axis=0) @ p["embed"].T


def test_a_tied_embedding_splits_by_use():
    params, tokens = {"embed": normal(16, 12)}, jnp.array([1, 3, 5])
    rules = [Rule("embed", use="dot")]
    packed = pack(tied, params, rules, tokens)
    assert isinstance(packed.leaves["embed@dot"], QuantTensor)
    assert isinstance(packed.leaves["embed"], jax.Array)
    got = jax.jit(ternarize(tied, rules, mode="packed"))(packed, tokens)
    np.testing.assert_array_equal(got, ternarize(tied, rules)(params, tokens))


def test_packed_parameters_of_another_function_are_refused():
    params, x = {"w": normal(8, 8)}, normal(5, 8, seed=1)
    packed = pack(lambda p, x: x @ p["w"].T, params, RULES, x)
    with pytest.raises(UsageError, match="packed with inputs on axes") as caught:
        ternarize(lambda p, x: x @ p["w"], RULES, mode="packed")(packed, x)
    assert caught.value.code == "transform.packed_elsewhere"
    with pytest.raises(UsageError, match="also uses it otherwise"):
        ternarize(lambda p, x: x @ p["w"].T + p["w"].sum(), RULES, mode="packed")(packed, x)
    with pytest.raises(UsageError, match="not on a dict"):
        ternarize(lambda p, x: x, RULES, mode="packed")(params, x)


def test_two_layouts_of_one_weight_share_a_scale_and_disagree_with_rows():
    params, x = {"w": normal(40, 32)}, normal(5, 40, seed=1)

    def tied(p, x):
        return (x @ p["w"]) @ p["w"].T

    packed = pack(tied, params, RULES, x)
    assert list(packed.leaves) == ["w", "w@dot2"]
    one, other = packed.quants()["w"]
    np.testing.assert_array_equal(one.scale, other.scale)
    np.testing.assert_array_equal(one.trits(), other.trits().T)
    got = ternarize(tied, RULES, mode="packed")(packed, x)
    np.testing.assert_array_equal(got, ternarize(tied, RULES)(params, x))
    with pytest.raises(UsageError) as caught:
        pack(tied, params, [Rule("w", scale="row")], x)
    assert caught.value.code == "quant.scale_contracted"
    assert "test_pack_weights.py" in caught.value.message


def test_nan_weights_are_refused():
    with pytest.raises(BadData, match="`w` holds NaN"):
        pack(CASES["out_in"][0], {"w": jnp.full((8, 12), jnp.nan)}, RULES, jnp.ones((5, 12)))


def test_no_float_form_of_a_packed_weight_is_in_the_program():
    fn = CASES["out_in"][0]
    params, x = {"w": normal(64, 96)}, normal(5, 96, seed=1)
    packed = pack(fn, params, RULES, x)
    program = trace(fn, packed.float_avals(), x)
    text = str(pack_weights(program, packed))
    assert "ternary_matmul" in text
    assert "f32[64,96]" not in text and "f32[96,64]" not in text


def test_programs_verify_between_passes_and_print_as_golden(golden):
    fn = CASES["out_in"][0]
    params, x = {"w": jnp.ones((4, 6))}, jnp.ones((2, 6))
    program = verify(trace(fn, params, x))
    verify(quantize_linears(program, RULES))
    packed = pack(fn, params, RULES, x)
    golden("linear_packed", str(verify(pack_weights(program, packed))))


def test_gradient_reaches_the_inputs_of_a_packed_run():
    fn = CASES["out_in"][0]
    params, x = {"w": normal(8, 12)}, normal(5, 12, seed=1)
    run = ternarize(fn, RULES, mode="packed")
    packed = pack(fn, params, RULES, x)
    got = jax.grad(lambda x: (run(packed, x) ** 2).sum())(x)
    want = jax.grad(lambda x: (ternarize(fn, RULES)(params, x) ** 2).sum())(x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_numbers_and_bare_arrays_are_parameters_too():
    params, x = {"w": normal(8, 12), "gain": 0.5}, normal(5, 12, seed=1)

    def fn(p, x):
        return p["gain"] * (x @ p["w"].T)

    packed = pack(fn, params, RULES, x)
    got = ternarize(fn, RULES, mode="packed")(packed, x)
    np.testing.assert_array_equal(got, ternarize(fn, RULES)(params, x))
    bare = pack(lambda w, x: x @ w.T, params["w"], [Rule("*")], x)
    assert digest(bare.ternary()) != digest({})


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int32])
def test_other_dtypes_of_activations(dtype):
    fn = CASES["out_in"][0]
    params, x = {"w": normal(8, 12)}, (4 * normal(5, 12, seed=1)).astype(dtype)
    packed = pack(fn, params, RULES, x)
    got = jax.jit(ternarize(fn, RULES, mode="packed"))(packed, x)
    np.testing.assert_array_equal(got, jax.jit(ternarize(fn, RULES))(params, x))


def test_packing_inside_jit_says_what_to_do():
    fn, x = CASES["out_in"][0], normal(5, 12, seed=1)
    with pytest.raises(UsageError, match="not inside jit"):
        jax.jit(lambda p: pack(fn, p, RULES, x).leaves)({"w": normal(8, 12)})


def test_every_implementation_gives_the_bits_of_training_in_a_residual_stack():
    def fn(p, x):
        for w in (p["w0"], p["w1"], p["w2"]):
            x = x + jnp.tanh(x) @ w.T
        return x

    params = {f"w{i}": normal(96, 96, seed=i) for i in range(3)}
    x = normal(64, 96, seed=9)
    packed = pack(fn, params, RULES, x)
    want = jax.jit(ternarize(fn, RULES))(params, x)
    for name in ("reference", "xla", "native"):
        run = jax.jit(ternarize(fn, RULES, mode="packed", implementation=name))
        np.testing.assert_array_equal(run(packed, x), want, err_msg=name)


def test_packed_is_a_pytree_of_a_flat_dict():
    packed = Packed.of(
        pack(CASES["out_in"][0], {"w": normal(8, 12)}, RULES, jnp.ones((5, 12))).leaves
    )
    again = jax.tree.map(lambda leaf: leaf, packed)
    assert again.names == ("w",)
