"""A weight used more than once, and stacks of experts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import bitnet_jax as bj
from tests.passes.laws.case import IN, OUT, TOKENS, Case, normal, one, relu, tokens
from tests.passes.laws.control import LINEAR, block

EXPERTS = 3
STACKED = {"w": ((0,), (2,), (1,))}
BY_EXPERT = (bj.Rule("w*", stack=(0,)),)


def twice_same_axes(p, x):
    return block(x, relu(x @ p["w"]) @ p["w"])


def twice_same_axes_twin(q, p, x):
    return block(x, q(LINEAR, relu(q(LINEAR, x, p["w"])), p["w"]))


def twice_other_axes(p, x):
    return block(x, relu(x @ p["w"]) @ p["w"].T)


def twice_other_axes_twin(q, p, x):
    return block(x, q("bo,io->bi", relu(q(LINEAR, x, p["w"])), p["w"]))


def tied(p, t):
    return p["w_embed"][t] @ p["w_embed"].T


def tied_twin(q, p, t):
    return q("ti,vi->tv", p["w_embed"][t], p["w_embed"])


def branches_and_outside(p, x, flag):
    y = lax.cond(flag > 0, lambda x: x @ p["w"], lambda x: relu(x) @ p["w"], x)
    return block(y, block(x, y) @ p["w"])


def branches_and_outside_twin(q, p, x, flag):
    y = jnp.where(flag > 0, q(LINEAR, x, p["w"]), q(LINEAR, relu(x), p["w"]))
    return block(y, q(LINEAR, block(x, y), p["w"]))


def dense_experts(p, x):
    return jnp.einsum("td,edf->tef", x, p["w"])


def ragged(p, x, sizes):
    return lax.ragged_dot(x, p["w"], sizes)


def ragged_twin(q, p, x, sizes):
    owner = jnp.repeat(jnp.arange(EXPERTS), sizes, total_repeat_length=x.shape[0])
    return per_token_twin(q, p, x, owner)


def per_token(p, x, owner):
    return jnp.einsum("ti,tio->to", x, p["w"][owner])


def per_token_twin(q, p, x, owner):
    return q("ti,tio->to", x, p["w"], view=lambda w: w[owner], inner=(1,), stack=(0,))


def per_token_take(p, x, owner):
    return jax.vmap(lambda x, i: x @ jnp.take(p["w"], i, axis=0))(x, owner)


def mixture(dot):
    """A top-2 mixture in the usual dispatch and combine einsums; each gate is a half."""

    def fn(p, x):
        _, top = lax.top_k(x @ p["router"], 2)
        chosen = jax.nn.one_hot(top, EXPERTS).sum(1)
        place = jnp.cumsum(chosen, axis=0) - 1
        dispatch = chosen[..., None] * jax.nn.one_hot(place.astype(jnp.int32), TOKENS)
        xe = jnp.einsum("tec,td->ecd", dispatch, x)
        h = relu(dot("ecd,edf->ecf", xe, p["w_up"]))
        ye = dot("ecf,efd->ecd", h, p["w_down"])
        return jnp.einsum("tec,ecd->td", 0.5 * dispatch, ye)

    return fn


def shared_and_routed(p, x, owner):
    return block(x @ p["w_shared"], per_token(p, x, owner))


def shared_and_routed_twin(q, p, x, owner):
    return block(q(LINEAR, x, p["w_shared"]), per_token_twin(q, p, x, owner))


def heads_with_a_scale_each(p, x):
    return jnp.einsum("bi,ihd->bhd", x, p["w"])


OWNER = np.array([2, 0, 2, 1], np.int32)
THREE = {"w": normal(EXPERTS, IN, OUT)}

CASES = {
    "twice, same axes": one(
        twice_same_axes, twice_same_axes_twin, w=(IN, IN), layers=2, axes={"w": ((), (1,), (0,))}
    ),
    "twice, other axes": one(twice_other_axes, twice_other_axes_twin, layers=2),
    "tied embedding": Case(
        tied,
        tied_twin,
        {"w_embed": normal(40, IN)},
        (np.array([1, 5, 39], np.int32),),
        axes={"w_embed": ((), (0,), (1,))},
    ),
    "in two branches and outside": Case(
        branches_and_outside,
        branches_and_outside_twin,
        {"w": normal(IN, IN)},
        (tokens(), np.int32(-1)),
        layers=2,
        axes={"w": ((), (1,), (0,))},
    ),
    "experts, batched": one(
        lambda p, x: jnp.einsum("ebi,eio->ebo", x, p["w"]),
        lambda q, p, x: q("ebi,eio->ebo", x, p["w"]),
        w=(EXPERTS, IN, OUT),
        x=(EXPERTS, TOKENS, IN),
        axes=STACKED,
    ),
    "experts, dense": one(
        dense_experts,
        lambda q, p, x: q("td,edf->tef", x, p["w"], stack=(0,)),
        w=(EXPERTS, IN, OUT),
        rules=BY_EXPERT,
        axes=STACKED,
    ),
    "experts, dense, one scale for all": one(
        dense_experts,
        lambda q, p, x: q("td,edf->tef", x, p["w"]),
        w=(EXPERTS, IN, OUT),
        axes={"w": ((), (0, 2), (1,))},
    ),
    "heads with a scale each": one(
        heads_with_a_scale_each,
        lambda q, p, x: q("bi,ihd->bhd", x, p["w"], stack=(1,)),
        w=(IN, EXPERTS, 8),
        rules=(bj.Rule("w", stack=(1,)),),
        axes={"w": ((1,), (2,), (0,))},
    ),
    # JAX itself cannot map ragged_dot over an outer axis
    **{
        name: Case(ragged, ragged_twin, THREE, (tokens(6, IN), sizes), axes=STACKED, vmap=False)
        for name, sizes in {
            "ragged_dot": np.array([2, 1, 3], np.int32),
            "ragged_dot with an empty group": np.array([4, 0, 2], np.int32),
        }.items()
    },
    "experts gathered per token": Case(
        per_token, per_token_twin, THREE, (tokens(), OWNER), axes=STACKED
    ),
    "experts taken per token under vmap": Case(
        per_token_take, per_token_twin, THREE, (tokens(), OWNER), axes=STACKED
    ),
    "top-2 mixture": Case(
        mixture(jnp.einsum),
        lambda q, p, x: mixture(q)(p, x),
        {
            "router": normal(IN, EXPERTS, seed=1),
            "w_up": normal(EXPERTS, IN, 40, seed=2),
            "w_down": normal(EXPERTS, 40, IN, seed=3),
        },
        (tokens(),),
        layers=2,
        axes={"w_up": ((0,), (2,), (1,)), "w_down": ((0,), (2,), (1,))},
    ),
    "a shared expert beside routed ones": Case(
        shared_and_routed,
        shared_and_routed_twin,
        {"w": normal(EXPERTS, IN, OUT), "w_shared": normal(IN, OUT)},
        (tokens(), OWNER),
        axes={**STACKED, "w_shared": ((), (1,), (0,))},
    ),
}
