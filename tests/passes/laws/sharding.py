"""Meshes of four virtual CPU devices: `shard_map`, constraints, inner jits with shardings.

A weight's scale is that of the whole parameter; where the contracted axis is sharded,
so is the activations' absmax. Each shard's product is scaled by itself, then the
user's own sum adds: of two shards, whose sum has one order.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.passes.handwritten import row_parallel
from tests.passes.laws.case import IN, OUT, Case, normal, one, relu, tokens
from tests.passes.laws.control import LINEAR, block, stacked


@functools.cache
def mesh(kind=AxisType.Auto, **axes):
    """A mesh of the first devices, `axes` being its names and sizes."""
    sizes = tuple(axes.values())
    devices = np.asarray(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return Mesh(devices, tuple(axes), axis_types=(kind,) * len(axes))


def over_shards(body, axes, in_specs, out_specs, **options):
    """`body` under shard_map, over an explicit mesh where one is set (`test_law_explicit.py`)."""

    def run(*args):
        explicit = bool(jax.sharding.get_abstract_mesh().explicit_axes)
        if explicit:  # operands must lie as the specs say
            args = [jax.sharding.reshard(x, s) for x, s in zip(args, in_specs, strict=True)]
        where = {} if explicit else {"mesh": mesh(**axes)}
        return jax.shard_map(body, **where, in_specs=in_specs, out_specs=out_specs, **options)(
            *args
        )

    return run


def mapped(body, in_specs, out_specs, check_vma=True, **axes):
    """``fn(params, x)`` that runs ``body(x, w)`` under shard_map."""
    run = over_shards(body, axes, in_specs, out_specs, check_vma=check_vma)

    def fn(p, x):
        return run(x, p["w"])

    return fn


def product(x, w):
    return x @ w


def summed(x, w):
    return lax.psum(x @ w, "m")


def scattered(x, w):
    return lax.psum_scatter(x @ w, "m", scatter_dimension=1, tiled=True)


def gathered_result(x, w):
    return lax.all_gather(x @ w, "n", axis=1, tiled=True)


def gathered_weight(x, w):
    """Fully sharded data parallel: the weight is gathered before its product."""
    return x @ lax.all_gather(w, "m", axis=0, tiled=True)


def gathered_input(x, w):
    return lax.all_gather(x, "m", axis=1, tiled=True) @ w


def plain(q, p, x):
    return q(LINEAR, x, p["w"])


def two_rows(q, p, x):
    return row_parallel(q, LINEAR, x, p["w"], 2)


COLUMNS = ((P(), P(None, "m")), P(None, "m"))
ROWS = ((P(None, "m"), P("m", None)), P())


def megatron(x, up, down):
    return lax.psum(relu(x @ up) @ down, "m")


def megatron_fn(p, x):
    specs = (P(), P(None, "m"), P("m", None))
    run = over_shards(megatron, {"m": 2}, specs, P())
    return run(x, p["w1"], p["w2"])


def megatron_twin(q, p, x):
    return row_parallel(q, "bh,ho->bo", relu(q("bi,ih->bh", x, p["w1"])), p["w2"], 2)


def scan_inside(p, x):
    def body(x, up, down):
        def layer(x, w):
            return block(x, megatron(x, *w)), None

        return lax.scan(layer, x, (up, down))[0]

    specs = (P(), P(None, None, "m"), P(None, "m", None))
    return over_shards(body, {"m": 2}, specs, P())(x, p["w1"], p["w2"])


def scan_inside_twin(q, p, x):
    for i in range(3):
        h = relu(q("bi,ih->bh", x, p["w1"], view=lambda w, i=i: w[i], inner=(1,), stack=(0,)))
        x = block(x, rows_of_element(q, h, p["w2"], i))
    return x


def rows_of_element(q, h, w, i):
    """`row_parallel` with element `i` of a stack, in two shards."""
    peak = jnp.maximum(jnp.max(jnp.abs(lax.stop_gradient(h)), axis=1, keepdims=True), 1e-5)
    half = h.shape[1] // 2
    return sum(
        q(
            "bh,ho->bo",
            h[:, part],
            w,
            view=lambda w, part=part: w[i, part],
            inner=(1,),
            stack=(0,),
            peak=peak,
        )
        for part in (slice(0, half), slice(half, None))
    )


def scan_outside(p, x):
    run = over_shards(product, {"m": 2}, *COLUMNS)

    def body(x, w):
        y = run(x, w)
        # On an explicit mesh a carry goes on lying as it did.
        y = jax.sharding.reshard(y, P()) if jax.typeof(y).sharding.mesh.explicit_axes else y
        return block(x, y), None

    return lax.scan(body, x, p["w"])[0]


def scan_outside_twin(q, p, x):
    for i in range(3):
        y = q(LINEAR, x, p["w"], view=lambda w, i=i: w[i], inner=(1,), stack=(0,))
        x = block(x, y)
    return x


def closed_over_by_body(p, x):
    """The weight is no operand: the body closes over it, whole."""
    return over_shards(lambda x: x @ p["w"], {"m": 2}, (P("m", None),), P("m", None))(x)


def experts_sharded(p, x):
    def body(x, w):
        return jnp.einsum("ebi,eio->ebo", x, w)

    return over_shards(body, {"m": 2}, (P("m"), P("m")), P("m"))(x, p["w"])


def manual_and_auto(p, x):
    axes, specs = {"d": 2, "m": 2}, (P(), P(None, "m"))
    return over_shards(product, axes, specs, P(None, "m"), axis_names={"m"})(x, p["w"])


def constrained(where):
    def fn(p, x):
        sharding = NamedSharding(mesh(m=2), P(None, "m"))
        values = {"x": x, "w": p["w"]}
        if where in values:
            values[where] = lax.with_sharding_constraint(values[where], sharding)
        y = values["x"] @ values["w"]
        return lax.with_sharding_constraint(y, sharding) if where == "y" else y

    return fn


def inner_shardings(p, x):
    """An inner jit that says where its operands and its result lie."""
    at = functools.partial(NamedSharding, mesh(m=2))
    run = jax.jit(
        lambda w, x: relu(x @ w),
        in_shardings=(at(P(None, "m")), at(P())),
        out_shardings=at(P(None, "m")),
    )
    return run(p["w"], x)


def inner_shardings_twin(q, p, x):
    return relu(q(LINEAR, x, p["w"]))


IN_OUT = {"axes": {"w": ((), (1,), (0,))}}
TORN = {"packed": "transform.shard"}  # a packed weight is split in whole blocks of 16


def whole(fn, twin, w=(IN, 32), **options):
    """The row of a weight whose halves are whole blocks."""
    return one(fn, twin, w=w, **options)


CASES = {
    "shard_map, columns of 12": whole(mapped(product, *COLUMNS, m=2), plain, w=(IN, 24), **TORN),
    "shard_map, columns of 16": whole(mapped(product, *COLUMNS, m=2), plain, **IN_OUT),
    "shard_map, columns of 20": whole(mapped(product, *COLUMNS, m=2), plain, w=(IN, 40), **TORN),
    "shard_map, columns on four devices": whole(
        mapped(product, *COLUMNS, m=4), plain, w=(IN, 64), **IN_OUT
    ),
    "shard_map, rows": whole(mapped(summed, *ROWS, m=2), two_rows, **IN_OUT),
    "shard_map, rows of 20": whole(
        mapped(summed, *ROWS, m=2), two_rows, w=(40, OUT), x=(4, 40), **TORN
    ),
    "shard_map, rows, psum_scatter": whole(mapped(scattered, ROWS[0], P(None, "m"), m=2), two_rows),
    "shard_map, columns, all_gather of the result": whole(
        mapped(gathered_result, (P("m"), P(None, "n")), P("m"), m=2, n=2, check_vma=False), plain
    ),
    "shard_map, all_gather of the input": whole(
        mapped(gathered_input, (P(None, "m"), P(None, "m")), P(None, "m"), m=2), plain
    ),
    "shard_map, all_gather of the weight": whole(
        mapped(gathered_weight, (P("m"), P("m")), P("m"), m=2), plain
    ),
    "shard_map, tokens": whole(mapped(product, (P("m"), P()), P("m"), m=2), plain, **IN_OUT),
    "shard_map, tokens and columns": whole(
        mapped(product, (P("d"), P(None, "m")), P("d", "m"), d=2, m=2), plain, **IN_OUT
    ),
    "shard_map, tokens and rows": whole(
        mapped(summed, (P("d", "m"), P("m")), P("d"), d=2, m=2), two_rows, **IN_OUT
    ),
    "shard_map, rows and columns": whole(
        mapped(summed, (P(None, "m"), P("m", "n")), P(None, "n"), m=2, n=2), two_rows, **IN_OUT
    ),
    "shard_map, columns then rows": Case(
        megatron_fn,
        megatron_twin,
        {"w1": normal(IN, 32, seed=1), "w2": normal(32, OUT, seed=2)},
        (tokens(),),
        layers=2,
        axes={"w1": ((), (1,), (0,)), "w2": ((), (1,), (0,))},
    ),
    "shard_map, columns then rows of 20": Case(
        megatron_fn,
        megatron_twin,
        {"w1": normal(IN, 40, seed=1), "w2": normal(40, OUT, seed=2)},
        (tokens(),),
        layers=2,
        packed="transform.shard",
    ),
    "scan inside shard_map": Case(
        scan_inside,
        scan_inside_twin,
        {"w1": normal(3, IN, 64, seed=1), "w2": normal(3, 64, IN, seed=2)},
        (tokens(),),
        layers=6,
        axes={"w1": ((0,), (2,), (1,)), "w2": ((0,), (2,), (1,))},
    ),
    "shard_map inside scan": stacked(scan_outside, scan_outside_twin),
    "shard_map inside jit": whole(lambda p, x: jax.jit(mapped(summed, *ROWS, m=2))(p, x), two_rows),
    "shard_map inside remat": whole(
        lambda p, x: jax.checkpoint(mapped(product, *COLUMNS, m=2))(p, x), plain
    ),
    "shard_map over a closure": whole(closed_over_by_body, plain),
    "shard_map of experts": whole(
        experts_sharded,
        lambda q, p, x: q("ebi,eio->ebo", x, p["w"]),
        w=(4, IN, OUT),
        x=(4, 3, IN),
        axes={"w": ((0,), (2,), (1,))},
    ),
    "shard_map, one axis manual": whole(manual_and_auto, plain),
    **{
        f"with_sharding_constraint on {where}": whole(constrained(where), plain)
        for where in ("x", "w", "y")
    },
    "jit with shardings": whole(inner_shardings, inner_shardings_twin, **IN_OUT),
}
# The mesh that each row with a shard_map asks for. On an explicit one JAX takes no closure.
_TWO_AXES = {
    "shard_map, columns on four devices": {"m": 4},
    "shard_map, columns, all_gather of the result": {"m": 2, "n": 2},
    "shard_map, tokens and columns": {"d": 2, "m": 2},
    "shard_map, tokens and rows": {"d": 2, "m": 2},
    "shard_map, rows and columns": {"m": 2, "n": 2},
    "shard_map, one axis manual": {"d": 2, "m": 2},
}
MESHES = {
    name: _TWO_AXES.get(name, {"m": 2})
    for name in CASES
    if "shard_map" in name and "closure" not in name
}
