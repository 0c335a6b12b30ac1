"""The passes that the engine runs: what they fuse, what they leave, and equal results."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.ir.program import trace
from bitnet_jax.models.families import family_of
from bitnet_jax.ops.attention import attention
from bitnet_jax.ops.cache_write import cache_write
from bitnet_jax.ops.gated_activation import gated_activation
from bitnet_jax.ops.rms_norm import rms_norm
from bitnet_jax.ops.rotary import rotary
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.packed import Packed
from bitnet_jax.passes.transform import served, ternarize
from bitnet_jax.quant.rules import Rule
from tests.tiny import tiny_spec

SPEC = tiny_spec(hidden_size=48, head_dim=16)
RULES = [Rule("w*")]


def program_of(fn, packed, *args):
    steps = pipelines.serving(packed)
    return pipelines.run_pipeline(trace(fn, packed.float_avals(), *args), steps, check=True)


def ops(program):
    """How often each of our ops stands in the program."""
    names = [eqn.primitive.name for eqn in program.jaxpr.jaxpr.eqns]
    mine = ("fused_linears", "cached_attention", "dense_matmul", "ternary_matmul")
    mine += ("rms_norm", "gated_activation", "rotary", "attention", "cache_write", "dot_general")
    return collections.Counter(name for name in names if name in mine)


def test_a_decoder_is_four_products_and_one_attention_a_layer():
    family = family_of("bitnet")
    params = family.init(SPEC, 0)
    packed = pack(family.forward(SPEC), params, family.rules, np.zeros((1, 2), np.int32))
    cache = family.cache(SPEC, 1, 32)
    zero = np.zeros(1, np.int32)
    args = (np.zeros((1, 1), np.int32), cache, zero, zero)
    found = ops(program_of(family.step(SPEC), packed, *args))
    layers = SPEC.num_layers
    assert found == {
        "fused_linears": 4 * layers,
        "cached_attention": layers,
        "rms_norm": 1,
        "dense_matmul": 1,
    }


def test_a_decoder_gives_what_it_gives_unfused():
    family = family_of("bitnet")
    params = family.init(SPEC, 0)
    packed = pack(family.forward(SPEC), params, family.rules, np.zeros((1, 2), np.int32))
    tokens = np.arange(7, dtype=np.int32)[None]
    args = (tokens, family.cache(SPEC, 1, 32), np.asarray([4], np.int32), np.asarray([6], np.int32))
    logits, cache = jax.jit(served(family.step(SPEC), ()))(packed, *args)
    want, kept = jax.jit(ternarize(family.step(SPEC), (), "packed"))(packed, *args)
    np.testing.assert_allclose(logits, want, atol=1e-5 * float(jnp.abs(want).max()))
    for mine, its in zip(jax.tree.leaves(cache), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)


def weights(rng, *shapes):
    return {f"w{i}": rng.standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}


def both(fn, params, *args):
    """The serving program, after its results were seen to be those of the float program's form."""
    packed = pack(fn, params, RULES, *args)
    program = program_of(fn, packed, *args)
    found, want = program(packed, *args), ternarize(fn, (), "packed")(packed, *args)
    for mine, its in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5 * float(jnp.abs(its).max()))
    return ops(program)


def test_a_norm_that_somebody_else_reads_stays(rng):
    def fn(params, x):
        h = rms_norm(x, params["gain"], eps=1e-5)
        return h @ params["w0"], h

    params = {"gain": np.ones(32, np.float32), **weights(rng, (32, 16))}
    found = both(fn, params, rng.standard_normal((3, 32), np.float32))
    assert found == {"rms_norm": 1, "fused_linears": 1}


def test_a_product_that_is_read_twice_is_not_summed_into(rng):
    def fn(params, x):
        y = x @ params["w0"]
        return x + y, y

    found = both(fn, weights(rng, (32, 32)), rng.standard_normal((3, 32), np.float32))
    assert found == {"fused_linears": 1}


def test_a_sum_with_itself_and_with_another_shape(rng):
    def fn(params, x):
        y = x @ params["w0"]
        z = x @ params["w1"]
        return y + y, z + jnp.ones((1, 16))

    both(fn, weights(rng, (32, 32), (32, 16)), rng.standard_normal((3, 32), np.float32))


def test_a_chain_of_residual_sums(rng):
    def fn(params, x):
        for name in ("w0", "w1", "w2"):
            x = x + rms_norm(x, params["gain"], eps=1e-5) @ params[name]
        return x

    params = {"gain": np.full(32, 0.5, np.float32), **weights(rng, *[(32, 32)] * 3)}
    found = both(fn, params, rng.standard_normal((2, 5, 32), np.float32))
    assert found == {"fused_linears": 3}


def test_more_weights_of_one_input_than_a_call_takes(rng):
    def fn(params, x):
        return [x @ params[f"w{i}"] for i in range(11)]

    found = both(fn, weights(rng, *[(32, 16)] * 11), rng.standard_normal((2, 32), np.float32))
    assert found == {"fused_linears": 2}


def test_silu_stays_before_the_products(rng):
    def fn(params, x):
        h = gated_activation(x @ params["w0"], x @ params["w1"], kind="silu")
        return h @ params["w2"]

    found = both(
        fn, weights(rng, (32, 48), (32, 48), (48, 16)), rng.standard_normal((2, 32), np.float32)
    )
    assert found == {"fused_linears": 2, "gated_activation": 1}


def test_bfloat16_activations_stay_as_they_are(rng):
    def fn(params, x):
        return (x @ params["w0"].astype(x.dtype)).astype(jnp.float32)

    x = jnp.asarray(rng.standard_normal((2, 32), np.float32), jnp.bfloat16)
    assert both(fn, weights(rng, (32, 16)), x) == {"ternary_matmul": 1}


@pytest.mark.parametrize("fault", ["positions", "theta", "shared cache", "no rotary"])
def test_attention_that_is_something_else_stays(rng, fault):
    def fn(params, x, keys, values, positions):
        q = (x @ params["w0"]).reshape(1, 3, 2, 16)
        k = (x @ params["w1"]).reshape(1, 3, 2, 16)
        other = positions + 1 if fault == "positions" else positions
        q = rotary(q, other, theta=1e4)
        if fault != "no rotary":
            k = rotary(k, positions, theta=5e5 if fault == "theta" else 1e4)
        keys = cache_write(keys, k, positions)
        values = cache_write(values, k, positions)
        y = attention(q, keys, values, positions)
        return (y, keys.sum()) if fault == "shared cache" else y

    x = rng.standard_normal((1, 3, 32), np.float32)
    cache = np.zeros((2, 1, 8, 2, 16), np.float32)
    positions = np.arange(3, dtype=np.int32)[None]
    found = both(fn, weights(rng, (32, 32), (32, 32)), x, *cache, positions)
    assert found["attention"] == 1 and not found["cached_attention"]


def test_a_narrow_head_is_widened_nowhere_but_in_the_products():
    table = jnp.asarray(np.random.default_rng(0).standard_normal((40, 32)), jnp.bfloat16)
    packed = Packed.of({"table": table}, narrow=["table"])
    tokens = np.asarray([[3, 39]], np.int32)

    def fn(params, tokens):
        x = jnp.take(params["table"], tokens, axis=0, mode="clip")
        return x @ params["table"].T

    def by_last_axis(params, tokens):
        x = jnp.take(params["table"], tokens, axis=0, mode="clip")
        return jax.lax.dot_general(x, params["table"], (((2,), (1,)), ((), ())))

    program = program_of(by_last_axis, packed, tokens)
    wide = {"table": table.astype(jnp.float32)}
    np.testing.assert_allclose(program(packed, tokens), by_last_axis(wide, tokens), rtol=1e-5)
    casts = [e for e in program.jaxpr.jaxpr.eqns if e.primitive.name == "convert_element_type"]
    assert ops(program) == {"dense_matmul": 1}
    assert [eqn.outvars[0].aval.shape for eqn in casts] == [(1, 2, 32)]  # the rows looked up
    transposed = program_of(fn, packed, tokens)
    np.testing.assert_allclose(transposed(packed, tokens), fn(wide, tokens), rtol=1e-5)
    assert ops(transposed) == {"dense_matmul": 1}

    # A use that no kernel takes as it is: widened for it, and right.
    def by_rows(params, tokens):
        return jnp.ones((2, 40)) @ params["table"]

    widened = program_of(by_rows, packed, tokens)
    np.testing.assert_allclose(widened(packed, tokens), by_rows(wide, tokens), rtol=1e-5)
    assert ops(widened) == {"dot_general": 1}


def test_effects_stay(capsys):
    def fn(params, x):
        jax.debug.print("seen {}", x.sum())
        return x @ params["w0"]

    params = {"w0": np.ones((32, 16), np.float32)}
    x = np.ones((2, 32), np.float32)
    packed = pack(fn, params, RULES, x)
    jax.block_until_ready(served(fn, ())(packed, x))
    jax.effects_barrier()
    assert "seen 64.0" in capsys.readouterr().out


def test_norms_of_other_shapes_and_filled_lookups(rng):
    def heads(params, x):
        return rms_norm(x, params["gain"], eps=1e-5) @ params["w0"]

    params = {"gain": rng.standard_normal((4, 32), np.float32), **weights(rng, (32, 16))}
    both(heads, params, rng.standard_normal((2, 4, 32), np.float32))

    table = jnp.asarray(rng.standard_normal((8, 4)), jnp.bfloat16)
    packed = Packed.of({"table": table}, narrow=["table"])

    def filled(params, tokens):
        return jnp.take(params["table"], tokens, axis=0, mode="fill", fill_value=0.1)

    tokens = np.asarray([3, 99], np.int32)
    found = program_of(filled, packed, tokens)(packed, tokens)
    assert np.array_equal(found, filled({"table": table.astype(jnp.float32)}, tokens))
