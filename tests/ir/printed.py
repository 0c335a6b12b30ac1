"""A small program for each construct that JAX traces into an equation with a body.

`python -m tests.ir.printed` prints them all: two processes must print the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bitnet_jax.ir.program import trace

W = jax.ShapeDtypeStruct((4, 4), jnp.float32)
X = jax.ShapeDtypeStruct((2, 4), jnp.float32)


def mesh():
    return jax.make_mesh((1,), ("shards",), axis_types=(AxisType.Auto,))


def while_loop(params, x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ params["w"]), (0, x))[1]


def scan(params, x):
    def body(carry, element):
        return carry @ params["w"] + element, carry[0]

    return lax.scan(body, x, jnp.zeros((3, 2, 4)), reverse=True)


def switch(params, x):
    branches = [lambda a: a @ params["w"], lambda a: a, jnp.sin]
    return lax.switch(x[0, 0].astype(jnp.int32), branches, x)


@jax.custom_jvp
def clipped(x):
    return jnp.clip(x, -1.0, 1.0)


clipped.defjvp(lambda primals, tangents: (clipped(*primals), tangents[0]))


def custom_jvp(params, x):
    return clipped(x @ params["w"])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def apply(act, w, x):
    return act(x @ w)


def apply_backward(act, saved, dy):
    return apply.fun(act, *saved), dy


apply.defvjp(lambda act, w, x: (apply(act, w, x), (w, x)), apply_backward)


def custom_vjp(params, x):
    return apply(jnp.tanh, params["w"], x)


def shard_map(params, x):
    specs = (P("shards", None), P(None, "shards"))
    inner = jax.shard_map(
        lambda w, x: lax.psum(x @ w, "shards"), mesh=mesh(), in_specs=specs, out_specs=P()
    )
    return inner(params["w"], x)


def sharded_jit(params, x):
    split = NamedSharding(mesh(), P(None, "shards"))
    inner = jax.jit(jnp.matmul, in_shardings=(None, split))
    return lax.with_sharding_constraint(inner(x, params["w"]), split)


def ragged_dot(params, x):
    experts = jnp.stack([params["w"], params["w"]])
    return lax.ragged_dot(x, experts, jnp.array([1, 1]), precision="highest")


@jax.jit
def layer(w, x):
    return jnp.where(x > 0, jax.nn.relu(x @ w), 0.5)


def repeated_jit(params, x):
    return layer(params["w"], layer(params["w"], x))


def remat(params, x):
    policy = jax.checkpoint_policies.save_only_these_names("hidden", "acts", "zeta", "beta")

    @partial(jax.checkpoint, policy=policy)
    def block(w, x):
        return jnp.sin(checkpoint_name(x @ w, "hidden"))

    return block(params["w"], x)


def effects(params, x):
    jax.debug.print("x is {}", x[0, 0])
    return io_callback(lambda value: np.asarray(value), X, x, ordered=True)


def randomness(params, x):
    with jax.ensure_compile_time_eval():
        known = jax.random.key(1)
    return x + jax.random.bits(known, (4,)) + jax.random.bits(jax.random.key(0), (4,))


def constants(params, x):
    return x * np.float32(3) + np.arange(4, dtype=np.float32) + jnp.asarray(np.full((1,), 7.0))


CASES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        while_loop,
        scan,
        switch,
        custom_jvp,
        custom_vjp,
        shard_map,
        sharded_jit,
        ragged_dot,
        repeated_jit,
        remat,
        effects,
        randomness,
        constants,
    )
}


def printed(name: str) -> str:
    return str(trace(CASES[name], {"w": W}, X))


if __name__ == "__main__":
    print("\n".join(printed(name) for name in CASES))
