"""Effects are kept, in order, with the values of the quantized function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import bitnet_jax as bj
from tests.passes.handwritten import qeinsum
from tests.passes.laws.case import IN, normal, tokens
from tests.passes.laws.check import arrays
from tests.passes.laws.control import block

RULES = [bj.Rule("w*")]
SEEN: list[tuple[str, float]] = []


def note(label, value):
    """An ordered callback that a compiler must not move, drop or repeat."""
    io_callback(lambda v: SEEN.append((label, float(v))), None, value, ordered=True)


def straight(dot):
    def fn(p, x):
        note("before", x[0, 0])
        h = dot("bi,io->bo", x, p["w1"])
        note("between", h[0, 0])
        y = dot("bi,io->bo", h, p["w2"])
        note("after", y[0, 0])
        return y

    return fn


def in_scan(p, x):
    def body(x, w):
        y = x @ w
        note("layer", y[0, 0])
        return block(x, y), None

    note("first", x[0, 0])
    x = lax.scan(body, x, p["w"])[0]
    note("last", x[0, 0])
    return x


def in_scan_by_hand(p, x):
    note("first", x[0, 0])
    for i in range(3):
        y = qeinsum("bi,io->bo", x, p["w"], view=lambda w, i=i: w[i], inner=(1,), stack=(0,))
        note("layer", y[0, 0])
        x = block(x, y)
    note("last", x[0, 0])
    return x


def in_cond(dot):
    def fn(p, x):
        def yes(x):
            y = dot("bi,io->bo", x, p["w1"])
            note("yes", y[0, 0])
            return y

        def no(x):
            note("no", x[0, 0])
            return x

        x = lax.cond(x[0, 0] < 1e6, yes, no, x)
        note("after", x[0, 0])
        return lax.cond(x[0, 0] > 1e6, yes, no, x)

    return fn


def in_while(p, x):
    def body(state):
        i, x = state
        y = x @ p["w1"]
        note("turn", y[0, 0])
        return i + 1, block(x, y)

    return lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]


def in_while_by_hand(p, x):
    for _ in range(3):
        y = qeinsum("bi,io->bo", x, p["w1"])
        note("turn", y[0, 0])
        x = block(x, y)
    return x


PAIR = {"w1": normal(IN, IN, seed=1), "w2": normal(IN, IN, seed=2)}
ONE = {"w1": PAIR["w1"]}
STACK = {"w": normal(3, IN, IN)}
CASES = {
    "straight": (straight(jnp.einsum), straight(qeinsum), PAIR),
    "scan": (in_scan, in_scan_by_hand, STACK),
    "cond": (in_cond(jnp.einsum), in_cond(qeinsum), ONE),
    "while": (in_while, in_while_by_hand, ONE),
}


def record(run):
    SEEN.clear()
    out = np.asarray(run())
    jax.effects_barrier()
    return list(SEEN), out


@pytest.mark.sampled(4)
@pytest.mark.parametrize("mode", ["eager", "jit", "packed"])
@pytest.mark.parametrize("case", CASES)
def test_ordered_callbacks_keep_their_order_and_see_quantized_values(case, mode):
    fn, by_hand, params = CASES[case]
    params, x = arrays(params), jnp.asarray(tokens())
    want = record(lambda: by_hand(params, x))
    floats = record(lambda: fn(params, x))
    if mode == "packed":
        params = bj.pack(fn, params, RULES, x)
    run = bj.ternarize(fn, RULES, mode="packed" if mode == "packed" else "qat")
    got = record(lambda: (run if mode == "eager" else jax.jit(run))(params, x))
    assert got[0] == want[0] != floats[0]
    assert [label for label, _ in got[0]] == [label for label, _ in floats[0]]
    np.testing.assert_array_equal(got[1], want[1])


def test_packing_runs_no_callback():
    params, x = arrays(PAIR), jnp.asarray(tokens())
    seen, _ = record(lambda: len(bj.pack(straight(jnp.einsum), params, RULES, x).leaves))
    assert seen == []


def test_debug_print_keeps_its_text_and_its_order(capsys):
    def fn(p, x):
        jax.debug.print("in", ordered=True)

        def body(x, w):
            y = x @ w
            jax.debug.print("layer {ok}", ok=jnp.isfinite(y).all(), ordered=True)
            return block(x, y), None

        x = lax.scan(body, x, p["w"])[0]
        jax.debug.print("out", ordered=True)
        return x

    params, x = arrays(STACK), jnp.asarray(tokens())
    for function in (fn, bj.ternarize(fn, RULES), jax.jit(bj.ternarize(fn, RULES))):
        jax.block_until_ready(function(params, x))
        jax.effects_barrier()
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["in", *["layer True"] * 3, "out"]


def test_a_gradient_through_a_function_that_prints(capsys):
    def fn(p, x):
        y = x @ p["w1"]
        jax.debug.print("a product")
        return y

    params, x = arrays(ONE), jnp.asarray(tokens())
    got = jax.grad(lambda p: bj.ternarize(fn, RULES)(p, x).sum())(params)
    jax.effects_barrier()
    assert capsys.readouterr().out == "a product\n"
    want = jax.grad(lambda p: qeinsum("bi,io->bo", x, p["w1"]).sum())(params)
    np.testing.assert_allclose(got["w1"], want["w1"], rtol=1e-5, atol=1e-5)
