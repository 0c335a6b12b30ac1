"""The law: value and gradient equal the hand-written quantized function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.program import trace
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.quantize_linears import quantize_linears
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule
from bitnet_jax.quant.ternary import quantize_activations
from bitnet_jax.quant.ternary import ternarize as ternarize_weights
from tests.passes.handwritten import linear

RULES = [Rule("w*")]


def contract_in_numpy(x, w):
    """The same numbers without JAX: float32, in the contract's order of operations."""
    q, a = quantize_activations(x)
    trits, s = ternarize_weights(w)
    acc = q.astype(np.int64) @ trits.T.astype(np.int64)
    return acc.astype(np.float32) * (s * (a * np.float32(1 / 127)))


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def matmul_out_in(p, x):
    return x @ p["w"].T


def matmul_in_out(p, x):
    return x @ p["w"]


def einsum_heads(p, x):
    return jnp.einsum("bi,ihd->bhd", x, p["w"])


def einsum_contract_two(p, x):
    return jnp.einsum("bhd,hdo->bo", x, p["w"])


def reshaped(p, x):
    return x @ p["w"].reshape(8, 24)


def weight_first(p, x):
    return jnp.einsum("oi,bi->ob", p["w"], x)


def through_jit(p, x):
    return jax.jit(lambda w, x: x @ w.T)(p["w"], x)


def through_remat(p, x):
    return jax.checkpoint(lambda w, x: jnp.sin(x @ w.T))(p["w"], x)


def through_bf16(p, x):
    # what is quantized is the float32 parameter, not its bfloat16 cast
    return (x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16).T).astype(jnp.float32)


def residual(p, x):
    # the add after the product is what XLA would fuse into a multiply-add
    return x + x @ p["w"].T


def residual_bf16(p, x):
    # one sum only: XLA keeps float32 between two bfloat16 sums of the user's own
    x = x.astype(jnp.bfloat16)
    return x + x @ p["w"].astype(jnp.bfloat16).T


def residual_bf16_by_hand(p, x):
    x = x.astype(jnp.bfloat16)
    return x + linear(x, p["w"])


def weight_of_one_row(p, x):
    return x @ p["w"].T


def unit_batch(p, x):
    dims = (((2,), (2,)), ((0,), (0,)))
    return jax.lax.dot_general(x[None], p["w"][None], dims)[0]


def through_scan(p, x):
    def body(c, w):
        # No tanh: XLA 0.11 gives it other bits in a loop than by itself.
        return jax.nn.relu(c @ w.T), None

    return jax.lax.scan(body, x, p["w"])[0]


def stack_by_hand(p, x):
    for w in p["w"]:
        x = jax.nn.relu(linear(x, w))
    return x


def experts(p, x):
    return jnp.einsum("ebi,eoi->ebo", x, p["w"])


CASES = {
    "out_in": (matmul_out_in, lambda p, x: linear(x, p["w"]), (8, 12), (5, 12)),
    "in_out": (matmul_in_out, lambda p, x: linear(x, p["w"].T), (12, 8), (5, 12)),
    "heads": (
        einsum_heads,
        lambda p, x: linear(x, p["w"].reshape(12, 8).T).reshape(5, 2, 4),
        (12, 2, 4),
        (5, 12),
    ),
    "two_contracted": (
        einsum_contract_two,
        lambda p, x: linear(x.reshape(5, 8), p["w"].reshape(8, 6).T),
        (2, 4, 6),
        (5, 2, 4),
    ),
    "reshaped": (
        reshaped,
        lambda p, x: linear(x, p["w"].reshape(8, 24).T),
        (8, 4, 6),
        (5, 8),
    ),
    "weight_first": (weight_first, lambda p, x: linear(x, p["w"]).T, (8, 12), (5, 12)),
    "jit": (through_jit, lambda p, x: linear(x, p["w"]), (8, 12), (5, 12)),
    "remat": (through_remat, lambda p, x: jnp.sin(linear(x, p["w"])), (8, 12), (5, 12)),
    "bf16": (
        through_bf16,
        lambda p, x: linear(x.astype(jnp.bfloat16), p["w"]).astype("float32"),
        (256, 512),
        (5, 512),
    ),
    "residual": (residual, lambda p, x: x + linear(x, p["w"]), (128, 128), (64, 128)),
    "residual_bf16": (residual_bf16, residual_bf16_by_hand, (128, 128), (64, 128)),
    "one_row": (weight_of_one_row, lambda p, x: linear(x, p["w"]), (1, 12), (5, 12)),
    "unit_batch": (unit_batch, lambda p, x: linear(x, p["w"]), (8, 12), (5, 12)),
    "scan": (through_scan, stack_by_hand, (3, 12, 12), (5, 12)),
    "experts": (
        experts,
        lambda p, x: jnp.stack([linear(x[e], p["w"][e]) for e in range(3)]),
        (3, 8, 12),
        (3, 5, 12),
    ),
}


def assert_close(got, want, rtol):
    """Within `rtol` of the largest value: sums of large terms may come out small."""
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * float(jnp.abs(want).max()))


def loss(fn):
    return lambda p, x: (fn(p, x).astype(jnp.float32) ** 2).sum()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_hand_written_function(case):
    fn, by_hand, w_shape, x_shape = CASES[case]
    params, x = {"w": normal(*w_shape)}, normal(*x_shape, seed=1)
    qat = ternarize(fn, RULES)
    # By hand one operation at a time: jitted, XLA would fuse and round elsewhere.
    np.testing.assert_array_equal(
        jax.jit(qat)(params, x).astype(jnp.float32), by_hand(params, x).astype(jnp.float32)
    )
    got = jax.jit(jax.value_and_grad(loss(qat), argnums=(0, 1)))(params, x)
    want = jax.jit(jax.value_and_grad(loss(by_hand), argnums=(0, 1)))(params, x)
    # bf16 rounds the cotangents of each form in its own place
    rtol = 5e-2 if "bf16" in case else 2e-5
    jax.tree.map(lambda a, b: assert_close(a, b, rtol), got, want)
    # and it is not the float function
    assert not np.allclose(qat(params, x), fn(params, x), rtol=1e-3)


@pytest.mark.parametrize("shape", [(8, 12), (33, 100), (256, 768)])
def test_value_equals_numpy_bit_for_bit_jitted_or_not(shape):
    params, x = {"w": normal(*shape)}, normal(7, shape[1], seed=1)
    want = contract_in_numpy(np.asarray(x), np.asarray(params["w"]))
    qat = ternarize(matmul_out_in, RULES)
    np.testing.assert_array_equal(qat(params, x), want)
    np.testing.assert_array_equal(jax.jit(qat)(params, x), want)
    traced = jax.jit(qat)(params, x, lam=jnp.float32(1))
    np.testing.assert_array_equal(traced, want)


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_lambda_blends_and_is_traced(lam):
    params, x = {"w": normal(8, 12)}, normal(5, 12, seed=1)
    qat = jax.jit(ternarize(matmul_out_in, RULES))
    got = qat(params, x, lam=jnp.float32(lam))
    np.testing.assert_allclose(got, linear(x, params["w"], lam), rtol=1e-5, atol=1e-5)
    if lam == 0:
        np.testing.assert_allclose(got, matmul_out_in(params, x), rtol=1e-5, atol=1e-5)
    if lam == 1:
        np.testing.assert_array_equal(got, ternarize(matmul_out_in, RULES)(params, x))


def test_row_and_group_scales():
    params, x = {"w": normal(8, 32)}, normal(5, 32, seed=1)
    row = ternarize(matmul_out_in, [Rule("w", scale="row")])(params, x)
    np.testing.assert_array_equal(row, linear(x, params["w"], scale="row"))


def test_group_scales_equal_numpy():
    params, x = {"w": normal(8, 32)}, normal(5, 32, seed=1)
    q, a = quantize_activations(np.asarray(x))
    trits, s = ternarize_weights(np.asarray(params["w"]), "group", 16)
    want = np.zeros((5, 8), np.float32)
    for g in range(2):
        part = slice(16 * g, 16 * g + 16)
        acc = q[:, part].astype(np.int64) @ trits[:, part].T.astype(np.int64)
        want = want + acc.astype(np.float32) * s[:, g]
    want = want * (a * np.float32(1 / 127))
    qat = ternarize(matmul_out_in, [Rule("w", scale="group-16")])
    np.testing.assert_array_equal(qat(params, x), want)
    np.testing.assert_array_equal(jax.jit(qat)(params, x), want)


def test_vmap_over_inputs_and_over_weights():
    params, x = {"w": normal(3, 8, 12)}, normal(3, 5, 12, seed=1)
    got = jax.vmap(ternarize(matmul_out_in, RULES))(params, x)
    want = jnp.stack([linear(x[i], params["w"][i]) for i in range(3)])
    np.testing.assert_array_equal(got, want)


def test_forward_mode():
    params, x = {"w": normal(8, 12)}, normal(5, 12, seed=1)
    qat = ternarize(matmul_out_in, RULES)
    tangent = {"w": normal(8, 12, seed=2)}
    _, got = jax.jvp(lambda p: qat(p, x), (params,), (tangent,))
    _, want = jax.jvp(lambda p: linear(x, p["w"]), (params,), (tangent,))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dots_saveable", "dots_with_no_batch_dims_saveable"])
def test_a_remat_policy_that_saves_dots_still_saves_one_value(name):
    policy = getattr(jax.checkpoint_policies, name)

    def fn(p, x):
        return jax.checkpoint(lambda w, x: jnp.sin(x @ w.T), policy=policy)(p["w"], x).sum()

    params, x = {"w": normal(8, 12)}, normal(5, 12, seed=1)

    # What the policy saves is what the backward does not compute again: the dot of the
    # forward, once, where recomputing everything (no policy) has it twice.
    def dots(policy_fn):
        jaxpr = jax.make_jaxpr(jax.grad(ternarize(policy_fn, RULES)))(params, x)
        return str(jaxpr).count("dot_general[")

    def recomputing(p, x):
        return jax.checkpoint(lambda w, x: jnp.sin(x @ w.T))(p["w"], x).sum()

    assert dots(fn) == dots(recomputing) - 1


def test_a_tied_embedding_is_quantized_only_where_it_is_multiplied():
    def tied(p, tokens):
        return jnp.take(p["embed"], tokens, axis=0) @ p["embed"].T

    params, tokens = {"embed": normal(16, 12)}, jnp.array([1, 3, 5])
    got = ternarize(tied, [Rule("embed", use="dot")])(params, tokens)
    np.testing.assert_array_equal(got, linear(params["embed"][tokens], params["embed"]))


def test_the_line_is_the_users_also_through_a_function_that_jax_knows():
    params, x = {"w": normal(8, 12)}, normal(5, 12)
    jnp.linalg.norm(params["w"])  # traced before

    def normalized(p, x):
        return x @ (p["w"] / jnp.linalg.norm(p["w"])).T

    with pytest.raises(UsageError, match=r"test_quantize_linears.py:\d+ \(normalized\)"):
        ternarize(normalized, RULES)(params, x)


def test_an_unused_rule_names_the_closest_parameters():
    params, x = {"gate_proj": normal(8, 12)}, normal(5, 12)
    with pytest.raises(UsageError, match="gate_porj") as caught:
        ternarize(lambda p, x: x @ p["gate_proj"].T, [Rule("gate_porj")])(params, x)
    assert caught.value.code == "quant.rule_unused"
    assert "gate_proj" in caught.value.hint


def test_a_mask_on_the_weight_is_refused_with_the_source_line():
    params, x = {"w": normal(8, 12)}, normal(5, 12)

    def masked(p, x):
        return x @ (p["w"] * (p["w"] > 0)).T

    with pytest.raises(UsageError, match=r"test_quantize_linears.py:\d+ \(masked\)") as caught:
        ternarize(masked, RULES)(params, x)
    assert caught.value.code == "transform.unfollowable"
    # the hint holds: exempted by a rule before, with another weight for the rule to take
    params["w2"] = normal(4, 8)

    def masked_and_not(p, x):
        return masked(p, x) @ p["w2"].T

    kept = [Rule("w", use="*", to="keep"), *RULES]
    got = ternarize(masked_and_not, kept)(params, x)
    np.testing.assert_array_equal(got, linear(masked(params, x), params["w2"]))


def test_biases_of_any_rank_are_left_alone_and_deltas_are_not():
    def attention(p, x):
        heads = jnp.einsum("bi,ihd->bhd", x, p["w"]) + p["b"]
        return jnp.einsum("bhd,hdo->bo", heads, p["w_out"])

    params = {"w": normal(12, 2, 4), "b": normal(2, 4), "w_out": normal(2, 4, 6)}
    x = normal(5, 12, seed=1)
    got = ternarize(attention, [Rule("**")])(params, x)
    heads = linear(x, params["w"].reshape(12, 8).T) + params["b"].reshape(8)
    np.testing.assert_array_equal(got, linear(heads, params["w_out"].reshape(8, 6).T))

    def adapter(p, x):
        return x @ (p["w"] + p["a"] @ p["b"])

    lora = {"w": normal(12, 8), "a": normal(12, 2), "b": normal(2, 8)}
    with pytest.raises(UsageError, match="`w` cannot be quantized: it reaches `add`"):
        ternarize(adapter, RULES)(lora, x)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["ternary", "int8", "int6", "int4"])
@pytest.mark.parametrize("scale", ["tensor", "row", "group-16"])
def test_a_tied_table_of_any_kind_is_looked_up_and_multiplied_by_the_same_numbers(kind, scale):
    params, tokens = {"embed": normal(24, 32)}, jnp.array([[1, 3, 23]])
    rules = [Rule("embed", use="*", to=kind, scale=scale)]

    def tied(p, tokens):
        return p["embed"][tokens] @ p["embed"].T

    got = ternarize(tied, rules)(params, tokens)
    packed = pack(tied, params, rules, tokens)
    assert list(packed.leaves) == ["embed"]  # nothing float is kept
    np.testing.assert_array_equal(ternarize(tied, rules, mode="packed")(packed, tokens), got)
    (quant,) = packed.quants()["embed"]
    np.testing.assert_array_equal(
        ternarize(lambda p, t: p["embed"][t], rules)(params, tokens),
        quant.dequantize()[tokens],
    )


@pytest.mark.parametrize("lam", [3, -0.5, np.float32(3), float("nan")])
def test_lambda_outside_its_range_is_refused(lam):
    params, x = {"w": normal(8, 12)}, normal(5, 12, seed=1)
    with pytest.raises(UsageError, match="λ goes from 0"):
        ternarize(matmul_out_in, RULES)(params, x, lam=lam)


def test_a_leaf_that_is_no_array_is_named():
    with pytest.raises(UsageError, match="`w.name` is a str"):
        ternarize(lambda p, x: x, RULES)({"w": {"name": "x"}}, jnp.ones(3))


def test_the_printed_program_before_and_after(golden):
    params, x = {"w": jnp.ones((4, 6)), "norm": jnp.ones(6)}, jnp.ones((2, 6))
    before = trace(lambda p, x: (x * p["norm"]) @ p["w"].T, params, x)
    golden("linear_before", str(before))
    golden("linear_qat", str(quantize_linears(before, RULES)))
