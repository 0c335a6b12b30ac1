"""Mixtures of experts by each way to write one, and their twins by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bitnet_jax as bj
from tests.frameworks.laws import ALL, filled, holds, normal
from tests.passes.handwritten import qeinsum

EXPERTS, TOKENS = 3, 6
X = normal(TOKENS, 8)
PARAMS = filled(
    {
        "router": jax.ShapeDtypeStruct((8, EXPERTS), jnp.float32),
        "up": jax.ShapeDtypeStruct((EXPERTS, 8, 16), jnp.float32),
        "down": jax.ShapeDtypeStruct((EXPERTS, 16, 8), jnp.float32),
    }
)
ROUTER = bj.Rule("router", to="keep")


def route(params, x):
    """Weights [tokens, 2] and experts [tokens, 2] of each token's two best."""
    gates, chosen = lax.top_k(jax.nn.softmax(x @ params["router"]), 2)
    return gates / gates.sum(-1, keepdims=True), chosen


def by_capacity(dot, params, x, capacity=4):
    """Dispatch and combine by einsums; what is over an expert's capacity is dropped."""
    gates, chosen = route(params, x)
    wanted = jax.nn.one_hot(chosen, EXPERTS)  # [token, choice, expert]
    before = jnp.cumsum(wanted.reshape(-1, EXPERTS), axis=0).reshape(wanted.shape)
    place = (before * wanted).astype(int) - 1
    slots = jax.nn.one_hot(place, capacity)  # a place of -1, or too large, is no slot
    dispatch = slots.sum(1)
    combine = jnp.einsum("tk,tkec->tec", gates, slots)
    inputs = jnp.einsum("td,tec->ecd", x, dispatch)
    h = jax.nn.relu(dot("ecd,edf->ecf", inputs, params["up"]))
    return jnp.einsum("ecd,tec->td", dot("ecf,efd->ecd", h, params["down"]), combine)


def by_gather(dot, params, x):
    """Each token gathers the matrices of its own experts."""
    gates, chosen = route(params, x)
    x = jnp.repeat(x[:, None], 2, axis=1)
    h = jax.nn.relu(dot("tkd,tkdf->tkf", x, params["up"][chosen]))
    return jnp.einsum("tk,tkd->td", gates, dot("tkf,tkfd->tkd", h, params["down"][chosen]))


def by_groups(ragged, params, x):
    """Tokens sorted by their expert, then `lax.ragged_dot`."""
    gates, chosen = route(params, x)
    order = jnp.argsort(chosen.reshape(-1))
    sizes = jnp.bincount(chosen.reshape(-1), length=EXPERTS).astype(jnp.int32)
    h = jax.nn.relu(ragged(x[order // 2], params["up"], sizes))
    y = ragged(h, params["down"], sizes)[jnp.argsort(order)].reshape(TOKENS, 2, 8)
    return jnp.einsum("tk,tkd->td", gates, y)


def dense(dot, params, x):
    """Every expert on every token, weighted: experts are outputs to the first product."""
    gates = jax.nn.softmax(x @ params["router"])
    h = jax.nn.relu(dot("td,edf->tef", x, params["up"]))
    return jnp.einsum("te,ted->td", gates, dot("tef,efd->ted", h, params["down"]))


def scanned(dot, params, x):
    """One expert after another, the weights of each token masking."""
    gates = jax.nn.softmax(x @ params["router"]).T

    def expert(total, given):
        up, down, gate = given
        h = jax.nn.relu(dot("td,df->tf", x, up))
        return total + gate[:, None] * dot("tf,fd->td", h, down), None

    return lax.scan(expert, jnp.zeros_like(x), (params["up"], params["down"], gates))[0]


def qragged(x, w, sizes):
    """Every expert on every row, and of each row what its own expert gave."""
    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[0])[:, None]
    parts = [
        jnp.where((row >= ends[e] - sizes[e]) & (row < ends[e]), qeinsum("td,df->tf", x, w[e]), 0)
        for e in range(EXPERTS)
    ]
    return sum(parts)


# how: the model, its product, the twin's
WAYS = {
    "capacity": (by_capacity, jnp.einsum, qeinsum),
    "gathered": (by_gather, jnp.einsum, qeinsum),
    "ragged_dot": (by_groups, lax.ragged_dot, qragged),
    "dense": (dense, jnp.einsum, functools.partial(qeinsum, stack=(0,))),
    "scanned": (scanned, jnp.einsum, qeinsum),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS)
def test_experts_have_a_scale_each_and_equal_their_twin(way):
    model, plain, quantized = WAYS[way]
    fn, twin = (functools.partial(model, product) for product in (plain, quantized))
    stack = (0,) if way == "dense" else ()
    rules = [ROUTER, bj.Rule("**", stack=stack)]
    holds(fn, PARAMS, rules, X, ternary=["down", "up"], twin=twin)
    for quant in bj.pack(fn, PARAMS, rules, X).ternary().values():
        assert quant.scale.shape == (EXPERTS,)


def test_all_ways_are_one_parameter_set():
    """What is packed for one way of running the experts is what another packs."""
    rules = [ROUTER, bj.Rule("**", stack=(0,))]
    scales = [
        bj.pack(functools.partial(model, product), PARAMS, rules, X).ternary()["up"].scale
        for model, product, _ in WAYS.values()
    ]
    for scale in scales[1:]:
        np.testing.assert_array_equal(scale, scales[0])


def test_without_a_stack_a_dense_first_product_has_one_scale():
    """Its experts are outputs like any other: only `Rule.stack` can say that they are not."""
    fn = functools.partial(dense, jnp.einsum)
    quant = bj.pack(fn, PARAMS, [ROUTER, *ALL], X).ternary()
    assert quant["up"].scale.shape == () and quant["down"].scale.shape == (EXPERTS,)


def test_the_router_may_be_ternary():
    fn = functools.partial(by_gather, jnp.einsum)
    assert holds(fn, PARAMS, ALL, X) == ["down", "router", "up"]
