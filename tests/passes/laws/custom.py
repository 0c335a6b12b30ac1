"""Functions with derivatives of their own.

`custom_jvp`: the function and the primal of its rule are quantized, products with
tangents stay as written. `custom_vjp`: the function and its forward rule are
quantized, the backward rule sees the float residuals that it always saw.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tests.passes.laws.case import IN, OUT, Case, normal, one, relu, tokens
from tests.passes.laws.control import LINEAR, block, stacked

# -------------------------------------------------------------------------- custom_jvp


def clipped_linear(dot):
    """A linear whose derivative is its own: half as steep where it is negative."""

    @jax.custom_jvp
    def f(w, x):
        return relu(dot(x, w))

    @f.defjvp
    def rule(primals, tangents):
        (w, x), (dw, dx) = primals, tangents
        y = dot(x, w)
        return relu(y), jnp.where(y > 0, 1.0, 0.5) * (dx @ w + x @ dw)

    return f


def rule_that_calls_itself(dot):
    """The primal of the rule is the function again; a square, so that its own value matters."""

    @jax.custom_jvp
    def f(w, x):
        return dot(x, w)

    @f.defjvp
    def rule(primals, tangents):
        (w, x), (dw, dx) = primals, tangents
        y = f(w, x)
        return y, jnp.sign(y) * (dx @ w) + 2 * (x @ dw)

    return f


def activation(y):
    """A custom_jvp that no weight enters."""
    f = jax.custom_jvp(relu)
    f.defjvp(lambda p, t: (relu(p[0]), jnp.where(p[0] > 0, t[0], 0.25 * t[0])))
    return f(y)


def closed_over_jvp(p, x):
    f = jax.custom_jvp(lambda x: relu(x @ p["w"]))
    f.defjvp(lambda primals, tangents: (f(primals[0]), 3.0 * (tangents[0] @ p["w"])))
    return f(x)


def closed_over_jvp_twin(q, p, x):
    f = jax.custom_jvp(lambda x: relu(q(LINEAR, x, p["w"])))
    f.defjvp(lambda primals, tangents: (f(primals[0]), 3.0 * (tangents[0] @ p["w"])))
    return f(x)


def higher_order(make):
    """A function of a function: the custom rule belongs to what is passed in."""

    def apply_twice(f, w, x):
        return f(w["b"], f(w["a"], x))

    return lambda dot: lambda p, x: apply_twice(make(dot), p, x)


def by_hand(make):
    """`fn` and its twin from a maker of ``f(w, x)`` that takes the product."""

    def twin(q, p, x):
        return make(lambda x, w: q(LINEAR, x, w))(p["w"], x)

    return lambda p, x: make(jnp.matmul)(p["w"], x), twin


# -------------------------------------------------------------------------- custom_vjp


def own_backward(dot):
    @jax.custom_vjp
    def f(w, x):
        return dot(x, w)

    f.defvjp(
        lambda w, x: (dot(x, w), (w, x)),
        lambda kept, g: (2.0 * (kept[1].T @ g), 3.0 * (g @ kept[0].T)),
    )
    return f


def product_is_residual(dot):
    """The forward rule keeps the sign of its own product, and is not the function again."""

    @jax.custom_vjp
    def f(w, x):
        return relu(dot(x, w))

    def forward(w, x):
        y = dot(x, w)
        return 0.5 * relu(y), (w, x, y > 0)

    def backward(kept, g):
        w, x, positive = kept
        g = jnp.where(positive, g, 0)
        return x.T @ g, g @ w.T

    f.defvjp(forward, backward)
    return f


def transposed_residual(dot):
    @jax.custom_vjp
    def f(w, x):
        return dot(x, w)

    f.defvjp(
        lambda w, x: (dot(x, w), (w.T, x)), lambda kept, g: (kept[1].T @ g, 2.0 * (g @ kept[0]))
    )
    return f


def nondiff_argnums(dot):
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
    def f(act, w, x, factor):
        return act(dot(x, w)) * factor

    def forward(act, w, x, factor):
        y = dot(x, w)
        return act(y) * factor, (w, x, y)

    def backward(act, factor, kept, g):
        w, x, y = kept
        g = jnp.where(y > 0, g, 0) * factor
        return x.T @ g, g @ w.T

    f.defvjp(forward, backward)
    return lambda w, x: f(relu, w, x, 2.0)


def closed_over_vjp(p, x):
    return _closed_over_vjp(lambda x: x @ p["w"], p)(x)


def closed_over_vjp_twin(q, p, x):
    return _closed_over_vjp(lambda x: q(LINEAR, x, p["w"]), p)(x)


def _closed_over_vjp(dot, p):
    f = jax.custom_vjp(lambda x: relu(dot(x)))
    f.defvjp(lambda x: (relu(dot(x)), None), lambda _, g: (2.0 * (g @ p["w"].T),))
    return f


def only_values_have_a_rule(dot):
    """A custom_vjp that no weight enters, around products."""

    @jax.custom_vjp
    def clip_gradient(y):
        return y

    clip_gradient.defvjp(lambda y: (y, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))
    return lambda w, x: clip_gradient(dot(x, w))


def in_scan(make):
    def fn(p, x):
        f = make(jnp.matmul)

        def body(x, w):
            y = f(w, x)
            return block(x, y), y[0]

        return jax.lax.scan(body, x, p["w"])

    def twin(q, p, x):
        f, ys = make(lambda x, w: q(LINEAR, x, w)), []
        for i in range(3):
            ys.append(f(p["w"][i], x))
            x = block(x, ys[-1])
        return x, jnp.stack([y[0] for y in ys])

    return fn, twin


def gradient_checkpointed(make):
    def fn(p, x):
        return jax.checkpoint(lambda w, x: relu(make(jnp.matmul)(w, x)))(p["w"], x)

    return fn, lambda q, p, x: relu(make(lambda x, w: q(LINEAR, x, w))(p["w"], x))


def twice(make):
    applied = higher_order(make)
    return Case(
        lambda p, x: applied(jnp.matmul)({"a": p["w1"], "b": p["w2"]}, x),
        lambda q, p, x: applied(lambda x, w: q(LINEAR, x, w))({"a": p["w1"], "b": p["w2"]}, x),
        {"w1": normal(IN, OUT, seed=1), "w2": normal(OUT, 16, seed=2)},
        (tokens(),),
        layers=2,
    )


def linear_in_activation(p, x):
    return activation(x @ p["w"])


CASES = {
    "custom_jvp": one(*by_hand(clipped_linear)),
    "custom_jvp whose rule calls the function": one(*by_hand(rule_that_calls_itself)),
    "custom_jvp that no weight enters": one(
        linear_in_activation, lambda q, p, x: activation(q(LINEAR, x, p["w"]))
    ),
    "custom_jvp over a closure": one(
        closed_over_jvp, closed_over_jvp_twin, gradient="transform.rule_closure"
    ),
    "custom_jvp, higher order": twice(clipped_linear),
    "custom_jvp in scan": stacked(*in_scan(clipped_linear)),
    "custom_jvp in remat": one(*gradient_checkpointed(clipped_linear)),
    "custom_vjp": one(*by_hand(own_backward)),
    "custom_vjp whose forward rule is another function": one(
        *by_hand(product_is_residual), rule_differs=True
    ),
    "custom_vjp with a transposed residual": one(*by_hand(transposed_residual)),
    "custom_vjp with nondiff_argnums": one(*by_hand(nondiff_argnums)),
    "custom_vjp over a closure": one(
        closed_over_vjp, closed_over_vjp_twin, gradient="transform.rule_closure"
    ),
    "custom_vjp that no weight enters": one(*by_hand(only_values_have_a_rule)),
    "custom_vjp, higher order": twice(own_backward),
    "custom_vjp in scan": stacked(*in_scan(product_is_residual), rule_differs=True),
    "custom_vjp in remat": one(*gradient_checkpointed(product_is_residual), rule_differs=True),
}
