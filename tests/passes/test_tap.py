"""Taps: what is read is what was computed, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError

RNG = np.random.default_rng(0)
PARAMS = {
    "embed": jnp.asarray(RNG.normal(size=(10, 8)), jnp.float32),
    "stack": jnp.asarray(RNG.normal(size=(3, 8, 8)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32),
}
TOKENS = jnp.array([1, 2])


def block(h, w):
    return checkpoint_name(h + jnp.tanh(h @ w), "block")


def model(p, tokens):
    y, _ = jax.lax.scan(
        jax.checkpoint(lambda h, w: (block(h, w), None)), p["embed"][tokens], p["stack"]
    )
    return jax.jit(lambda y: y * 2)(y) @ p["out"]


def states():
    h, out = PARAMS["embed"][TOKENS], []
    for w in PARAMS["stack"]:
        out.append(h)
        h = block(h, w)
    return jnp.stack(out), h


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_reads_inputs_outputs_and_names_through_scan_remat_and_jit(wrap):
    out, taps = wrap(bj.tap(model, ["stack:input", "out:*", "name:block"]))(PARAMS, TOKENS)
    before, last = states()
    np.testing.assert_array_equal(out, wrap(model)(PARAMS, TOKENS))
    assert sorted(taps) == ["name:block", "out:input", "out:output", "stack:input"]
    np.testing.assert_allclose(taps["stack:input"], before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(taps["name:block"][-1], last, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(taps["out:input"], last * 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(taps["out:output"], out)


def test_a_path_met_twice_gives_a_list_in_order():
    def twice(p, x):
        return (x @ p["w"]) @ p["w"]

    x, w = jnp.ones((2, 4)), jnp.full((4, 4), 0.5)
    _, taps = bj.tap(twice, "w:input")({"w": w}, x)
    np.testing.assert_array_equal(taps["w:input"][0], x)
    np.testing.assert_array_equal(taps["w:input"][1], x @ w)


def test_taps_are_differentiable_and_the_quantized_function_can_be_tapped():
    tapped = bj.tap(model, "stack:output")
    gradient = jax.grad(lambda p: tapped(p, TOKENS)[1]["stack:output"].sum())(PARAMS)
    assert float(jnp.abs(gradient["embed"]).sum()) > 0
    assert float(jnp.abs(gradient["out"]).sum()) == 0
    named = bj.tap(bj.ternarize(model, [bj.Rule("**")]), "name:block")
    out, taps = named(PARAMS, TOKENS)
    np.testing.assert_array_equal(out, bj.ternarize(model, [bj.Rule("**")])(PARAMS, TOKENS))
    assert taps["name:block"].shape == (3, 2, 8)


def test_a_pattern_that_names_nothing_lists_the_closest():
    with pytest.raises(UsageError, match="names no activation") as caught:
        bj.tap(model, "stakc:input")(PARAMS, TOKENS)
    assert "`stack:input`" in caught.value.hint


def test_what_lies_in_a_branch_cannot_be_read_and_the_line_is_said():
    def branched(p, x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ p["out"], lambda x: x[:, :4], x)

    with pytest.raises(UsageError, match=r"inside `cond` at .*test_tap.py:\d+ \(branched\)"):
        bj.tap(branched, "out:input")(PARAMS, jnp.ones((2, 8)))
