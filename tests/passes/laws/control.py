"""Inner jits, loops and branches. By hand, loops are Python's and branches `jnp.where`'s."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.passes.laws.case import IN, OUT, Case, normal, one, relu, tokens

LINEAR = "bi,io->bo"


def element(q, x, w, i):
    """The quantized product with element `i` of a stack."""
    return q(LINEAR, x, w, view=lambda w: w[i], inner=(1,), stack=(0,))


def block(x, y):
    """One exact residual step."""
    return 0.5 * x + relu(y)


def stacked(fn, twin, count=3, **options):
    """The row of a function of a stack of square weights."""
    options.setdefault("layers", count)
    options.setdefault("axes", {"w": ((0,), (2,), (1,))})
    return one(fn, twin, w=(count, IN, IN), **options)


# --------------------------------------------------------------------------------- jit


def nested_jit(p, x):
    inner = jax.jit(lambda w, x: x @ w)
    return jax.jit(lambda p, x: relu(inner(p["w1"], x)) @ p["w2"])(p, x)


@functools.partial(jax.jit, static_argnames="scaled")
def named(w, x, *, scaled):
    return (x @ w) * (2 if scaled else 1)


def two_layers_twin(q, p, x):
    return q(LINEAR, relu(q(LINEAR, x, p["w1"])), p["w2"])


def two_layers(fn, twin=two_layers_twin, **options):
    params = {"w1": normal(IN, OUT, seed=1), "w2": normal(OUT, 16, seed=2)}
    options.setdefault("axes", {"w1": ((), (1,), (0,)), "w2": ((), (1,), (0,))})
    return Case(fn, twin, params, (tokens(),), layers=2, **options)


# -------------------------------------------------------------------------------- scan


def scan(p, x, **options):
    def body(x, w):
        y = x @ w
        return block(x, y), y[0]

    return lax.scan(body, x, p["w"], **options)


def scan_twin(q, p, x, reverse=False):
    order = [2, 1, 0] if reverse else [0, 1, 2]
    ys = [None] * 3
    for i in order:
        y = element(q, x, p["w"], i)
        x, ys[i] = block(x, y), y[0]
    return x, jnp.stack(ys)


def nested_scans(p, x):
    def inner(x, w):
        return block(x, x @ w), None

    def outer(x, ws):
        return lax.scan(inner, x, ws)[0], None

    return lax.scan(outer, x, p["w"])[0]


def nested_scans_twin(q, p, x):
    for i in range(2):
        for j in range(2):
            y = q(
                LINEAR,
                x,
                p["w"],
                view=lambda w, i=i, j=j: w[i, j],
                inner=(2,),
                stack=(0, 1),
            )
            x = block(x, y)
    return x


def weight_is_constant(p, x):
    return lax.scan(lambda x, _: (block(x, x @ p["w"]), None), x, None, length=3)[0]


def weight_is_constant_twin(q, p, x):
    for _ in range(3):
        x = block(x, q(LINEAR, x, p["w"]))
    return x


def carried(p, x):
    def body(carry, _):
        p, x = carry
        return (p, block(x, x @ p["w"])), None

    return lax.scan(body, (p, x), None, length=3)[0][1]


def stack_and_constant(p, x):
    def body(x, w):
        return block(x, relu(x @ w) @ p["w_shared"]), None

    return lax.scan(body, x, p["w"])[0]


def stack_and_constant_twin(q, p, x):
    for i in range(3):
        x = block(x, q(LINEAR, relu(element(q, x, p["w"], i)), p["w_shared"]))
    return x


def scanned_tree(p, x):
    def body(x, layer):
        h = relu(jnp.einsum("bi,hdi->bhd", x, layer["w_up"]) + layer["bias"])
        return block(x, jnp.einsum("bhd,hdo->bo", h, layer["w_down"])), None

    return lax.scan(body, x, p)[0]


def scanned_tree_twin(q, p, x):
    for k in range(2):
        up = q("bi,hdi->bhd", x, p["w_up"], view=lambda w, k=k: w[k], inner=(3,), stack=(0,))
        h = relu(up + p["bias"][k])
        y = q("bhd,hdo->bo", h, p["w_down"], view=lambda w, k=k: w[k], inner=(1, 2), stack=(0,))
        x = block(x, y)
    return x


def reshaped_stack(p, x):
    return lax.scan(lambda x, w: (block(x, x @ w.T), None), x, p["w"].reshape(3, IN, IN))[0]


def reshaped_stack_twin(q, p, x):
    for i in range(3):
        y = q(
            "bi,oi->bo", x, p["w"], view=lambda w, i=i: w[i].reshape(IN, IN), inner=(3,), stack=(0,)
        )
        x = block(x, y)
    return x


def stack_not_first(p, x):
    return lax.scan(lambda x, w: (block(x, x @ w), None), x, jnp.moveaxis(p["w"], 1, 0))[0]


def stack_not_first_twin(q, p, x):
    for i in range(3):
        y = q(LINEAR, x, p["w"], view=lambda w, i=i: w[:, i], inner=(0,), stack=(1,))
        x = block(x, y)
    return x


def part_of_a_stack(p, x):
    return lax.scan(lambda x, w: (block(x, x @ w), None), x, p["w"][1:])[0]


def part_of_a_stack_twin(q, p, x):
    for i in (1, 2):
        x = block(x, element(q, x, p["w"], i))
    return x


# ------------------------------------------------------------------------------- loops


def fori_constant(p, x):
    return lax.fori_loop(0, 3, lambda i, x: block(x, x @ p["w"]), x)


def fori_indexed(p, x):
    return lax.fori_loop(0, 3, lambda i, x: block(x, x @ p["w"][i]), x)


def fori_dynamic_index(p, x):
    def body(i, x):
        return block(x, x @ lax.dynamic_index_in_dim(p["w"], 2 - i, keepdims=False))

    return lax.fori_loop(0, 3, body, x)


def chain_twin(order):
    def twin(q, p, x, *_):
        for i in order:
            x = block(x, element(q, x, p["w"], i))
        return x

    return twin


def fori_traced(p, x, n):
    return lax.fori_loop(0, n, lambda i, x: block(x, x @ p["w"]), x)


def fori_traced_indexed(p, x, n):
    return lax.fori_loop(0, n, lambda i, x: block(x, x @ p["w"][i]), x)


def while_loop(p, x, n):
    def body(state):
        i, x = state
        return i + 1, block(x, x @ p["w"])

    return lax.while_loop(lambda state: state[0] < n, body, (0, x))[1]


def while_condition(p, x, n):
    """The condition multiplies by a weight too, and its carry holds one."""

    def condition(state):
        i, w, x = state
        return ((x @ p["w_stop"]).sum() < 1e6) & (i < n)

    def body(state):
        i, w, x = state
        return i + 1, w, block(x, x @ w)

    return lax.while_loop(condition, body, (0, p["w"], x))[2]


def loop(fn, twin, **options):
    return Case(
        fn,
        twin,
        options.pop("params", {"w": normal(IN, IN)}),
        (tokens(), np.int32(3)),
        gradient="as the function",
        **options,
    )


# ---------------------------------------------------------------------------- branches


def cond_in_one(p, x, flag):
    return lax.cond(flag > 0, lambda w, x: x @ w, lambda w, x: 2 * x[:, :OUT], p["w"], x)


def cond_in_one_twin(q, p, x, flag):
    return jnp.where(flag > 0, q(LINEAR, x, p["w"]), 2 * x[:, :OUT])


def cond_in_both(p, x, flag):
    return lax.cond(flag > 0, lambda: x @ p["w"], lambda: -(relu(x) @ p["w"]))


def cond_in_both_twin(q, p, x, flag):
    return jnp.where(flag > 0, q(LINEAR, x, p["w"]), -q(LINEAR, relu(x), p["w"]))


def cond_of_two(p, x, flag):
    return lax.cond(flag > 0, lambda: x @ p["w1"], lambda: x @ p["w2"])


def cond_of_two_twin(q, p, x, flag):
    return jnp.where(flag > 0, q(LINEAR, x, p["w1"]), q(LINEAR, x, p["w2"]))


def cond_of_elements(p, x, flag):
    return lax.cond(flag > 0, lambda w: x @ w[0], lambda w: x @ w[1], p["w"])


def cond_of_elements_twin(q, p, x, flag):
    return jnp.where(flag > 0, element(q, x, p["w"], 0), element(q, x, p["w"], 1))


def cond_and_outside(p, x, flag):
    y = lax.cond(flag > 0, lambda w: x @ w, lambda w: relu(x) @ w, p["w"])
    return block(y, 2 * x @ p["w"])


def cond_and_outside_twin(q, p, x, flag):
    y = jnp.where(flag > 0, q(LINEAR, x, p["w"]), q(LINEAR, relu(x), p["w"]))
    return block(y, q(LINEAR, 2 * x, p["w"]))


def switch(p, x, i):
    branches = [lambda x: x @ p["w1"], lambda x: x[:, :OUT], lambda x: x @ p["w2"]]
    return lax.switch(i, branches, x)


def switch_twin(q, p, x, i):
    results = [q(LINEAR, x, p["w1"]), x[:, :OUT], q(LINEAR, x, p["w2"])]
    return jnp.select([i == k for k in range(3)], results)


def nested_branches(p, x, i):
    def inner(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ p["w1"], lambda x: x @ p["w2"], x)

    return lax.switch(i, [lambda x: x @ p["w1"], inner], x)


def nested_branches_twin(q, p, x, i):
    one_, two = q(LINEAR, x, p["w1"]), q(LINEAR, x, p["w2"])
    return jnp.where(i == 0, one_, jnp.where(x[0, 0] > 0, one_, two))


def branch(fn, twin, flag, params=None, **options):
    return Case(fn, twin, params or {"w": normal(IN, OUT)}, (tokens(), np.int32(flag)), **options)


PAIR = {"w1": normal(IN, OUT, seed=1), "w2": normal(IN, OUT, seed=2)}


def cond_in_scan(p, x):
    def body(x, layer):
        w, flag = layer
        return lax.cond(flag, lambda: block(x, x @ w), lambda: x * 0.5), None

    return lax.scan(body, x, (p["w"], np.array([True, False, True])))[0]


def cond_in_scan_twin(q, p, x):
    x = block(x, element(q, x, p["w"], 0)) * 0.5
    return block(x, element(q, x, p["w"], 2))


def scan_in_cond(p, x, flag):
    return lax.cond(flag > 0, lambda p: scan(p, x)[0], lambda p: x, p)


def scan_in_while(p, x, n):
    return lax.fori_loop(0, n, lambda _, x: scan(p, x)[0], x)


def scan_in_while_twin(q, p, x, n):
    for _ in range(3):
        x, _ = scan_twin(q, p, x)
    return x


SHARED = {"w": normal(3, IN, OUT), "w_shared": normal(OUT, IN)}

CASES = {
    "jit": one(
        lambda p, x: jax.jit(lambda w, x: x @ w)(p["w"], x),
        lambda q, p, x: q(LINEAR, x, p["w"]),
    ),
    "jit of a closure": one(
        lambda p, x: jax.jit(lambda x: x @ p["w"])(x), lambda q, p, x: q(LINEAR, x, p["w"])
    ),
    "jit with a static argument": one(
        lambda p, x: named(p["w"], x, scaled=True), lambda q, p, x: q(LINEAR, x, p["w"]) * 2
    ),
    "the same jit twice": two_layers(
        lambda p, x: named(p["w2"], relu(named(p["w1"], x, scaled=False)), scaled=False)
    ),
    "nested jit": two_layers(nested_jit),
    "jit that returns a view": one(
        lambda p, x: x @ jax.jit(lambda w: w.T)(p["w"]),
        lambda q, p, x: q("bi,oi->bo", x, p["w"]),
        w=(OUT, IN),
    ),
    "scan": stacked(scan, scan_twin),
    "scan in reverse": stacked(
        lambda p, x: scan(p, x, reverse=True), lambda q, p, x: scan_twin(q, p, x, reverse=True)
    ),
    "scan unrolled": stacked(lambda p, x: scan(p, x, unroll=2), scan_twin),
    "nested scans": one(
        nested_scans,
        nested_scans_twin,
        w=(2, 2, IN, IN),
        layers=4,
        axes={"w": ((0, 1), (3,), (2,))},
    ),
    "scan with a weight as constant": one(
        weight_is_constant, weight_is_constant_twin, w=(IN, IN), layers=3
    ),
    "scan that carries the parameters": one(carried, weight_is_constant_twin, w=(IN, IN), layers=3),
    "scan of a stack and a constant": Case(
        stack_and_constant, stack_and_constant_twin, SHARED, (tokens(),), layers=6
    ),
    "scan of a tree": Case(
        scanned_tree,
        scanned_tree_twin,
        {
            "w_up": normal(2, 4, 6, IN, seed=1),
            "bias": normal(2, 4, 6, seed=2),
            "w_down": normal(2, 4, 6, IN, seed=3),
        },
        (tokens(),),
        layers=4,
        axes={"w_up": ((0,), (1, 2), (3,)), "w_down": ((0,), (3,), (1, 2))},
    ),
    "scan of a reshaped stack": one(reshaped_stack, reshaped_stack_twin, w=(3, 4, 8, IN), layers=3),
    "scan over an inner axis": one(
        stack_not_first,
        stack_not_first_twin,
        w=(IN, 3, IN),
        layers=3,
        axes={"w": ((1,), (2,), (0,))},
    ),
    "scan of a part of a stack": stacked(part_of_a_stack, part_of_a_stack_twin),
    "fori_loop, weight as constant": one(
        fori_constant, weight_is_constant_twin, w=(IN, IN), layers=3
    ),
    "fori_loop, w[i]": stacked(fori_indexed, chain_twin([0, 1, 2])),
    "fori_loop, dynamic_index_in_dim": stacked(fori_dynamic_index, chain_twin([2, 1, 0])),
    "fori_loop with a traced bound": loop(
        fori_traced, lambda q, p, x, n: weight_is_constant_twin(q, p, x)
    ),
    "fori_loop with a traced bound, w[i]": loop(
        fori_traced_indexed, chain_twin([0, 1, 2]), params={"w": normal(3, IN, IN)}
    ),
    "while_loop": loop(while_loop, lambda q, p, x, n: weight_is_constant_twin(q, p, x)),
    "while_loop with a weight in its condition": loop(
        while_condition,
        lambda q, p, x, n: weight_is_constant_twin(q, p, x),
        params={"w": normal(IN, IN), "w_stop": normal(IN, 8)},
    ),
    "cond, weight in one branch, taken": branch(cond_in_one, cond_in_one_twin, 1),
    "cond, weight in one branch, not taken": branch(
        cond_in_one, cond_in_one_twin, -1, float_here=True
    ),
    "cond, weight in both branches": branch(cond_in_both, cond_in_both_twin, -1),
    "cond of two weights": branch(cond_of_two, cond_of_two_twin, 1, PAIR),
    "cond of two elements of a stack": branch(
        cond_of_elements, cond_of_elements_twin, -1, {"w": normal(2, IN, OUT)}
    ),
    "cond and outside": branch(cond_and_outside, cond_and_outside_twin, 1),
    "switch": branch(switch, switch_twin, 2, PAIR),
    "nested branches": branch(nested_branches, nested_branches_twin, 1, PAIR),
    "cond in scan": stacked(cond_in_scan, cond_in_scan_twin),
    "scan in cond": Case(
        scan_in_cond,
        lambda q, p, x, flag: scan_twin(q, p, x)[0],
        {"w": normal(3, IN, IN)},
        (tokens(), np.int32(1)),
        layers=3,
    ),
    "scan in a loop with a traced bound": loop(
        scan_in_while, scan_in_while_twin, params={"w": normal(3, IN, IN)}
    ),
}
