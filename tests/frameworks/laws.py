"""What each framework's models are held to, and the linear they are compared with.

`by_hand` stands where a framework lets a user put a `dot_general` of their own, or is
called by a layer written for the test: the model's twin is then the same model, float
parameters and all, with every linear written by hand.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError
from bitnet_jax.ir.program import named_leaves
from tests.passes.handwritten import qeinsum

ALL = [bj.Rule("**", use="dot")]

# Quantized products are exact in both modes (tests/passes holds them to the bit), but in what
# the user's own arithmetic does around them LLVM contracts more or fewer multiply-adds, by
# what XLA has fused. Unoptimized it contracts few, and compiles in half the time.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# What is left of that: a few roundings of terms as large as the largest. A wrong scale, code
# or order of sums over shards is off by 2**-9 and more.
ROUNDINGS = 2**-20


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def filled(tree, seed=0):
    """Values for a tree of shapes: an initialization that compiles nothing."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        bound = 1 / math.sqrt(max(math.prod(leaf.shape[:-1]), 1))
        return jnp.asarray(rng.normal(size=leaf.shape) * bound, leaf.dtype)

    return jax.tree.map(fill, tree)


def by_hand(x, w, dims, precision=None, preferred_element_type=None, out_sharding=None):
    """`lax.dot_general` of the last axes of x with the first of w, as the contract says."""
    ((of_x, of_w), batch) = dims
    count = len(of_w)
    assert tuple(of_w) == tuple(range(count)) and not any(batch)
    assert tuple(of_x) == tuple(range(x.ndim - count, x.ndim))
    inputs = math.prod(w.shape[:count])
    y = qeinsum("ti,io->to", x.reshape(-1, inputs), w.reshape(inputs, -1))
    return y.reshape(*x.shape[: x.ndim - count], *w.shape[count:])


def is_float(leaf):
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)


def floats(tree):
    """The float leaves of a tree, by name: random keys and counters carry no law."""
    return {
        name: np.asarray(leaf, np.float32)
        for name, leaf in named_leaves(tree).items()
        if is_float(leaf)
    }


def value_and_gradients(fn, params, *args):
    """What `fn` returns, and the gradients of the squares in it, by float parameter."""

    def loss(params):
        out = fn(params, *args)
        found = [x.astype(jnp.float32) for x in jax.tree.leaves(out) if is_float(x)]
        return sum((x**2).sum() for x in found), out

    grads, out = compiled(jax.grad(loss, has_aux=True, allow_int=True))(params)
    return out, floats(grads)


def same_values(got, want):
    """Two results have one structure, and the same floats in it but for `ROUNDINGS`."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (name, a), b in zip(floats(got).items(), floats(want).values(), strict=True):
        largest = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDINGS * largest, err_msg=name)


def holds(fn, params, rules, *args, ternary=None, twin=None):
    """A model is packed as it is trained, and every ternary weight of it learns.

    Args:
      ternary: the names that must be packed, no fewer and no more.
      twin: the same model with its linears written by hand: it has the same value, and the
        same gradient of every float parameter.

    Returns:
      The names that were packed.
    """
    packed = bj.pack(fn, params, rules, *args)
    names = sorted(packed.ternary())
    assert ternary is None or names == sorted(ternary)
    want, grads = value_and_gradients(bj.ternarize(fn, rules), params, *args)
    same_values(compiled(bj.ternarize(fn, rules, mode="packed"))(packed, *args), want)
    for name, grad in grads.items():
        assert np.isfinite(grad).all(), name
        assert name not in names or np.abs(grad).max() > 0, name
    if twin is not None:
        value, by_twin = value_and_gradients(twin, params, *args)
        same_values(value, want)
        largest = max(np.abs(grad).max() for grad in by_twin.values())
        for (name, a), b in zip(grads.items(), by_twin.values(), strict=True):
            # sums in another order: float32 rounding of terms as large as the largest gradient
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * largest, err_msg=name)
    return names


def refused(fn, params, rules, *args, code="transform.unfollowable"):
    """The message, hint and all, of the error that a model is refused with."""
    with pytest.raises(UsageError) as caught:
        bj.ternarize(fn, rules)(params, *args)
    assert caught.value.code == code
    return str(caught.value)
