"""Choosing by a traced vector: float and quantized bit for bit, and slopes that are slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.program import trace
from bitnet_jax.models.families import family_for, fresh_params
from bitnet_jax.passes.observe_products import observe_products
from bitnet_jax.passes.plan import make_plan
from bitnet_jax.passes.quantize_chosen import chosen_names, quantize_chosen
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule
from tests.tiny import tiny_spec

RULES = (Rule("a"), Rule("b", to="int4", scale="row"))


def two(params, x):
    """A small function; `a` is looked at through a transpose."""
    return jnp.tanh(x @ params["a"].T) @ params["b"] + params["bias"]


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    params = {
        "a": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
        "bias": jnp.ones(4, jnp.float32),
    }
    return params, jnp.asarray(rng.normal(size=(3, 16)), jnp.float32)


def chosen(fn, params, *args, rules=RULES, **options):
    program = trace(fn, params, *args)
    return jax.jit(quantize_chosen(program, rules, **options)), chosen_names(
        make_plan(program, rules)
    )


@pytest.mark.parametrize("choice", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_each_choice_is_the_function_under_those_rules_to_the_bit(small, choice):
    run, names = chosen(two, *small)
    assert names == ("a", "b")
    rules = [rule for rule, wanted in zip(RULES, choice, strict=True) if wanted]
    wanted = jax.jit(ternarize(two, rules) if rules else two)(*small)
    np.testing.assert_array_equal(run(*small, np.array(choice, np.float32)), wanted)


def test_a_stack_that_is_scanned_is_one_choice():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 8, 8)) / 3, jnp.float32)}
    x = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)

    def fn(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]

    rules = (Rule("w"),)
    run, names = chosen(fn, params, x, rules=rules)
    assert names == ("w",)
    quantized = jax.jit(ternarize(fn, rules))(params, x)
    np.testing.assert_array_equal(run(params, x, np.ones(1, np.float32)), quantized)
    np.testing.assert_array_equal(run(params, x, np.zeros(1, np.float32)), jax.jit(fn)(params, x))


def test_a_lookup_that_a_rule_takes_is_chosen_too():
    table = {"t": jnp.asarray(np.random.default_rng(0).normal(size=(6, 16)), jnp.float32)}
    ids = jnp.array([0, 5, 2])

    def fn(params, ids):
        return params["t"][ids]

    rules = (Rule("t", use="gather", scale="row"),)
    run, _ = chosen(fn, table, ids, rules=rules)
    for choice, wanted in ((0.0, fn), (1.0, ternarize(fn, rules))):
        np.testing.assert_array_equal(run(table, ids, np.array([choice], "f4")), wanted(table, ids))


def test_every_choice_is_one_compilation(small):
    run, names = chosen(two, *small)
    for choice in np.eye(len(names), dtype=np.float32):
        run(*small, choice)
    assert run._cache_size() == 1


def test_the_slope_of_a_smooth_choice_is_what_differences_say(small):
    run, names = chosen(two, *small, smooth=True)
    loss = lambda c: jnp.sum(run(*small, c) ** 2)
    for start in (np.zeros(2), np.full(2, 0.5), np.ones(2)):
        start = start.astype(np.float32)
        slope = jax.grad(loss)(start)
        for place in range(len(names)):
            step = np.zeros(2, np.float32)
            step[place] = 1e-2
            wanted = (loss(start + step) - loss(start - step)) / 2e-2
            # Codes of activations jump where an earlier choice moves them; a slope does not.
            assert float(slope[place]) == pytest.approx(float(wanted), rel=0.1, abs=0.3)


@pytest.mark.heavy
def test_a_decoder_of_ours_is_float_at_zero_and_qat_at_one():
    spec = tiny_spec()
    family, params = family_for(spec), fresh_params(spec, 0)
    forward, tokens = family.forward(spec), np.arange(24, dtype=np.int32).reshape(2, 12)
    run, names = chosen(forward, params, tokens, rules=family.rules)
    assert len(names) == 14
    ones = run(params, tokens, np.ones(14, np.float32))
    np.testing.assert_array_equal(ones, jax.jit(ternarize(forward, family.rules))(params, tokens))


def test_rules_that_take_nothing_are_refused(small):
    with pytest.raises(UsageError) as caught:
        chosen(two, *small, rules=(Rule("nowhere"),))
    assert caught.value.code == "quant.rule_unused"


def test_what_is_observed_is_what_goes_through_the_products(small):
    params, x = small
    seen = lambda x, plain, quantized: {"x": x, "plain": plain, "quantized": quantized}
    result, found = observe_products(trace(two, *small), RULES, seen)(*small)
    np.testing.assert_array_equal(result, two(*small))
    (a,), (b,) = found["a"], found["b"]
    inner = np.tanh(np.asarray(x @ params["a"].T))
    np.testing.assert_array_equal(a["x"], x)
    np.testing.assert_allclose(b["x"], inner, rtol=1e-6)
    np.testing.assert_array_equal(a["plain"], x @ params["a"].T)
    first = ternarize(lambda p, x: x @ p["a"].T, RULES[:1])
    np.testing.assert_array_equal(a["quantized"], first({"a": params["a"]}, x))


def test_only_what_is_named_is_observed(small):
    program = observe_products(
        trace(two, *small), RULES, lambda x, plain, quantized: x, names=["b"], quantized=False
    )
    assert list(program(*small)[1]) == ["b"]
