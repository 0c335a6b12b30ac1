"""How the rows are run: the twin's value, the gradients of both, what counts as equal.

Twins are jitted without XLA's optimizer, which halves the time and, with their
guards, gives the bits of one operation at a time (`test_law.py` checks that).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

import bitnet_jax as bj
from tests.passes.handwritten import qeinsum
from tests.passes.laws import CASES

PLAIN = {"xla_backend_optimization_level": 0}

# Gradients are float sums of at most 48 products, whose order the transform does not owe. A sum
# of n terms in another order differs by about √n half-ulps of its largest partial sum (by n at
# most): 4 ulps of the largest gradient for each product that it came through.
ULPS = 4
# What `gradients` was called for.
DIFFERENTIATED = set()


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def jit(function):
    return jax.jit(function, compiler_options=PLAIN)


@functools.cache
def expected(name):
    """What the twin of row `name` gives at λ = 1; where it can, from its gradient's program."""
    case = CASES[name]
    if case.gradient == "all" and not case.rule_differs:
        return run_gradients(name, twin_of, 1)[1]
    return twin_value(name, case.inputs)


@functools.cache
def expected_alone(name):
    """As `expected`, without a program for gradients that nobody else has needed."""
    known = (name, twin_of) in DIFFERENTIATED
    return expected(name) if known else twin_value(name, CASES[name].inputs)


@functools.cache
def packed_of(name):
    """The row's parameters, packed."""
    case = CASES[name]
    return bj.pack(case.fn, arrays(case.params), case.rules, *arrays(case.inputs))


def twin_value(name, inputs, params=None):
    case = CASES[name]
    twin = jit(lambda p, inputs: case.twin(qeinsum, p, *inputs, **case.kwargs))
    return twin(arrays(case.params if params is None else params), arrays(inputs))


def assert_same(got, want):
    """Equal trees, shapes, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def assert_near(got, want, case, slack=1):
    """Within `ULPS` of the largest value for each product, of bfloat16 if `case` is narrow."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    step = 2.0**-8 if case.narrow else 2.0**-23
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        bound = slack * ULPS * case.layers * step * np.abs(right).max(initial=0)
        np.testing.assert_allclose(left, right, rtol=0, atol=bound)


def qat_of(name):
    """``f(params, inputs, λ)``: the transform's."""
    case = CASES[name]
    qat = bj.ternarize(case.fn, case.rules)
    return lambda p, inputs, lam: qat(p, *inputs, lam=lam, **case.kwargs)


def twin_of(name):
    """``f(params, inputs, λ)``: the hand-written one."""
    case = CASES[name]
    return lambda p, inputs, lam: case.twin(
        functools.partial(qeinsum, lam=lam), p, *inputs, **case.kwargs
    )


@functools.cache
def gradients(name, of):
    """Jitted ``(params, inputs, cotangents, λ) -> (gradients, value)`` of ``of(name)``."""
    DIFFERENTIATED.add((name, of))
    function = of(name)

    def gradient(params, inputs, cotangents, lam):
        floats = [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]

        def loss(params, chosen):
            full = list(inputs)
            for i, x in zip(floats, chosen, strict=True):
                full[i] = x
            out = function(params, full, lam)
            pairs = zip(jax.tree.leaves(out), cotangents, strict=True)
            return sum((y.astype(jnp.float32) * c).sum() for y, c in pairs), out

        return jax.grad(loss, (0, 1), has_aux=True)(params, [inputs[i] for i in floats])

    return jit(gradient)


def run_gradients(name, of, lam):
    """(gradients, value) of ``of(name)`` for random cotangents."""
    case = CASES[name]
    params, inputs = arrays(case.params), list(arrays(case.inputs))
    out = jax.eval_shape(lambda p, inputs: case.fn(p, *inputs, **case.kwargs), params, inputs)
    cotangents = [
        np.random.default_rng(k).normal(size=y.shape).astype(np.float32)
        for k, y in enumerate(jax.tree.leaves(out))
    ]
    return gradients(name, of)(params, inputs, cotangents, jnp.float32(lam))
