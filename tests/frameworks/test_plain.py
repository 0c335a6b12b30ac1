"""Plain functions: idioms that need no framework, each with its twin written by hand.

A model is written over `dot`, an einsum: `jnp.einsum` for the transform, the quantized
einsum for its twin.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import bitnet_jax as bj
from tests.frameworks.laws import ALL, holds, normal, refused, same_values, value_and_gradients
from tests.passes.handwritten import qeinsum

X = normal(4, 8)
W, V = normal(8, 8, seed=1), normal(8, 8, seed=2)
STACK = normal(4, 8, 8, seed=3)


class Layer(NamedTuple):
    w: jax.Array
    b: jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["scale"])
@dataclasses.dataclass
class Scaled:
    w: jax.Array
    scale: float


def over_layers(dot, layers, x, **options):
    """``tanh(x @ w)`` of each element of a stack, in a scan."""
    return lax.scan(lambda x, w: (jnp.tanh(dot("ti,io->to", x, w)), None), x, layers, **options)[0]


def dense(dot, p, x):
    return jax.nn.relu(dot("ti,io->to", x, p["w"])) + p["b"]


def list_of_tuples(dot, p, x):
    for layer in p:
        x = jnp.tanh(dot("ti,io->to", x, layer.w) + layer.b)
    return x


def dataclass(dot, p, x):
    return dot("ti,io->to", x, p.w) * p.scale


def scan(dot, p, x):
    return over_layers(dot, p["w"], x, unroll=2)


def segments(dot, p, x):
    """Nested scans over a regrouped stack: a segment's activations are recomputed at once."""
    segment = jax.checkpoint(lambda x, ws: (over_layers(dot, ws, x), None))
    return lax.scan(segment, x, p["w"].reshape(2, 2, 8, 8))[0]


def indexed(dot, p, x):
    return lax.fori_loop(0, 4, lambda i, x: jnp.tanh(dot("ti,io->to", x, p["w"][i])), x)


def mapped(dot, p, x):
    return lax.map(lambda w: dot("ti,io->to", x, w), p["w"])


def rnn(dot, p, x):
    def step(h, x):
        return jnp.tanh(dot("i,io->o", x, p["w"]) + dot("h,ho->o", h, p["v"])), None

    return lax.scan(step, jnp.zeros(8), x)[0]


def placed(dot, p, x):
    """What only moves a weight, or names or orders it."""
    w = jax.device_put(checkpoint_name(p["w"], "w"))
    w, x = lax.optimization_barrier((w, x))
    return dot("ti,io->to", x, w)


def adapter(dot, p, x):
    """LoRA, its products added."""
    low = dot("ti,ir->tr", x, p["a"])
    return dot("ti,io->to", x, p["w"]) + dot("tr,ro->to", low, p["b"])


def both_ways(dot, p, x):
    return dot("ti,oi->to", jnp.tanh(dot("ti,io->to", x, p["w"])), p["w"])


def beside(dot, p, x):
    """A gain of shape (1, c), and a window of a table of positions."""
    return dot("ti,io->to", x, p["w"]) * p["gain"] + p["bias"]


ADAPTER = {"w": W, "a": normal(8, 2, seed=4), "b": normal(2, 8, seed=5)}
LAYERS = [Layer(W, normal(8)), Layer(V, normal(8, seed=6))]
# the idiom, its parameters, what is packed
IDIOMS = {
    "dense": (dense, {"w": W, "b": normal(8)}, ["w"]),
    "numpy parameters": (dense, {"w": np.asarray(W), "b": np.ones(8, np.float32)}, ["w"]),
    "list of tuples": (list_of_tuples, LAYERS, ["0.w", "1.w"]),
    "dataclass": (dataclass, Scaled(W, 0.5), ["w"]),
    "scan, unrolled": (scan, {"w": STACK}, ["w"]),
    "nested scans": (segments, {"w": STACK}, ["w"]),
    "fori_loop, indexed": (indexed, {"w": STACK}, ["w"]),
    "lax.map": (mapped, {"w": STACK}, ["w"]),
    "recurrence": (rnn, {"w": W, "v": V}, ["v", "w"]),
    "device_put": (placed, {"w": W}, ["w"]),
    "LoRA": (adapter, ADAPTER, ["a", "b", "w"]),
    "both ways": (both_ways, {"w": W}, ["w"]),
    "gain of (1, c)": (beside, {"w": W, "gain": normal(1, 8), "bias": normal(8)}, ["w"]),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("idiom", IDIOMS)
def test_an_idiom_equals_its_twin(idiom):
    model, params, ternary = IDIOMS[idiom]
    fn, twin = (functools.partial(model, dot) for dot in (jnp.einsum, qeinsum))
    holds(fn, params, [bj.Rule("**")], X, ternary=ternary, twin=twin)


def test_a_window_of_a_position_table_is_no_product():
    def model(dot, p, x, at):
        x = x + lax.dynamic_slice_in_dim(p["positions"], at, 4)
        return dot("bti,io->bto", x, p["w"])

    fn, twin = (functools.partial(model, dot) for dot in (jnp.einsum, qeinsum))
    params = {"w": W, "positions": normal(16, 8)}
    holds(fn, params, ALL, normal(2, 4, 8), jnp.int32(3), ternary=["w"], twin=twin)


def test_a_custom_derivative_is_taken_of_the_quantized_function():
    """Forward rules hold products too; the backward rule is the user's, on float weights."""

    def forward(w, x):
        return jnp.sin(x @ w), (w, x)

    def backward(saved, cotangent):
        w, x = saved
        return x.T @ cotangent, cotangent @ w.T

    call = jax.custom_vjp(lambda w, x: forward(w, x)[0])
    call.defvjp(forward, backward)

    def fn(p, x):
        return call(p["w"], x)

    holds(fn, {"w": W}, ALL, X, ternary=["w"])
    y = jnp.sin(qeinsum("ti,io->to", X, W))
    _, grads = value_and_gradients(bj.ternarize(fn, ALL), {"w": W}, X)
    same_values(grads["w"], X.T @ (2 * y))


def test_a_custom_jvp_has_a_quantized_primal():
    call = jax.custom_jvp(lambda w, x: jnp.sin(x @ w))

    @call.defjvp
    def rule(primals, tangents):
        (w, x), (dw, dx) = primals, tangents
        return call(w, x), 3 * (x @ dw + dx @ w)

    def fn(p, x):
        return call(p["w"], x)

    holds(fn, {"w": W}, ALL, X, ternary=["w"])
    y = jnp.sin(qeinsum("ti,io->to", X, W))
    _, grads = value_and_gradients(bj.ternarize(fn, ALL), {"w": W}, X)
    same_values(grads["w"], 3 * X.T @ (2 * y))


def unbatched(p, x):
    return jnp.sin(x + p["v"][:4]) @ p["w"]


def low_rank(p, x):
    return x @ (p["w"] + p["a"] @ p["b"])


def penalized(p, x):
    return (x @ p["w"]).sum() + 0.1 * sum((w**2).sum() for w in jax.tree.leaves(p))


def stacked_inside(p, x):
    layers = jax.tree.map(lambda *ws: jnp.stack(ws), *p["layers"])
    return over_layers(jnp.einsum, layers["w"], x)


PAIR = {"w": W, "v": V}
# why: function, parameters, code, what the hint says
REFUSED = {
    "stacked inside": (
        stacked_inside, {"layers": [{"w": W}, {"w": V}]}, "transform.unfollowable",
        "stack the parameters outside",
    ),
    "joined": (
        lambda p, x: jnp.concatenate([x, x], 1) @ jnp.concatenate([p["w"], p["v"]], 0), PAIR,
        "transform.unfollowable",
        "one of shape [layers",
    ),
    "masked": (
        lambda p, x: x @ (p["w"] * jnp.tri(8)), {"w": W}, "transform.unfollowable",
        "bj.KeepNofM",
    ),
    "scaled": (
        lambda p, x: x @ (p["w"] / jnp.sqrt(8.0)), {"w": W}, "transform.unfollowable",
        "scale what it multiplies, or the result",
    ),
    "LoRA, weights added": (
        low_rank, ADAPTER, "transform.unfollowable", "Rule('a', use='*', to='keep')",
    ),
    "as large as what it is added to": (
        unbatched, PAIR, "transform.unfollowable", "Rule('v', use='*', to='keep')",
    ),
    "penalized": (penalized, {"w": W}, "transform.unfollowable", "loss + decay * norm(params)"),
    "returned": (
        lambda p, x: (x @ p["w"], p), {"w": W}, "transform.unfollowable", "not the parameters",
    ),
    "complex": (
        lambda p, x: jnp.abs((x + 1j) @ p["w"]), {"w": W}, "transform.unfollowable", "complex",
    ),
    "grad inside": (
        lambda p, x: jax.grad(lambda x: jnp.sin(x @ p["w"]).sum())(x), {"w": W},
        "transform.derivative_inside", "jax.grad(bj.ternarize(net, rules))",
    ),
    "jvp inside": (
        lambda p, x: jax.jvp(lambda x: jnp.sin(x @ p["w"]), (x,), (x,))[1], {"w": W},
        "transform.derivative_inside", "jax.grad(bj.ternarize(net, rules))",
    ),
    "closed over": (
        lambda p, x: (x @ p["w"]) @ V, {"w": W}, "transform.closed_over",
        "pass it in the parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_followed_is_refused_with_what_to_do(why):
    fn, params, code, hint = REFUSED[why]
    said = refused(fn, params, ALL, X, code=code)
    assert hint in said and "test_plain.py" in said or why == "returned"


def test_an_adapter_on_a_float_base_learns_alone():
    """The way out that the hint names: what is added to the base is ternary."""

    def fn(p, x):
        return x @ p["w"] + (x @ p["a"]) @ p["b"]

    rules = [bj.Rule("w", to="keep"), *ALL]
    assert holds(fn, ADAPTER, rules, X) == ["a", "b"]
