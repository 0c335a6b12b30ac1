"""The rows of the law, packed and under vmap; their digests."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BitnetError
from bitnet_jax.ir.program import named_leaves
from tests.passes.handwritten import scale_of
from tests.passes.laws import CASES
from tests.passes.laws.check import (
    arrays,
    assert_same,
    expected_alone,
    jit,
    packed_of,
    twin_value,
)

RUN = [name for name, case in CASES.items() if case.packed is True]
REFUSED = [name for name, case in CASES.items() if isinstance(case.packed, str)]


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", RUN)
def test_packed(name):
    case = CASES[name]
    run = jit(bj.ternarize(case.fn, case.rules, mode="packed"))
    assert_same(run(packed_of(name), *arrays(case.inputs)), expected_alone(name))


@pytest.mark.sampled(32)
@pytest.mark.parametrize("name", RUN)
def test_packed_optimized(name):
    """As users run it: XLA fuses what it can."""
    case = CASES[name]
    run = jax.jit(bj.ternarize(case.fn, case.rules, mode="packed"))
    assert_same(run(packed_of(name), *arrays(case.inputs)), expected_alone(name))


@pytest.mark.parametrize("name", REFUSED)
def test_packed_is_refused(name):
    case = CASES[name]
    inputs = arrays(case.inputs)
    with pytest.raises(BitnetError) as caught:
        packed = bj.pack(case.fn, arrays(case.params), case.rules, *inputs)
        jax.jit(bj.ternarize(case.fn, case.rules, mode="packed"))(packed, *inputs)
    assert caught.value.code == case.packed


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", [name for name in RUN if CASES[name].axes])
def test_digest(name):
    """The digest that its definition gives, for the matrix that the row says."""
    case = CASES[name]
    packed = packed_of(name)
    leaves = named_leaves(case.params)
    hashed = hashlib.sha256(b"bitnet-trits/1\n")
    for key, (stack, out, inner) in sorted(case.axes.items()):
        w = np.asarray(leaves[key], np.float32)
        (rule,) = [rule for rule in case.rules if rule.takes(key, "dot")][:1]
        roles = (stack, inner, rule.scale, rule.scale_dtype)
        s, _ = jit(lambda w, roles=roles: scale_of(w, *roles))(w)
        trits = np.clip(np.rint(w * (1 / np.asarray(s))), -1, 1).astype(np.int8)
        sizes = [w.shape[axis] for axis in stack]
        sizes += [int(np.prod([w.shape[axis] for axis in axes])) for axes in (out, inner)]
        hashed.update(f"{key}\0{','.join(map(str, sizes))}\n".encode())
        codes = np.transpose(trits, (*stack, *out, *inner)).reshape(-1) + 1
        codes = np.pad(codes, (0, -codes.size % 4)).reshape(-1, 4).astype(np.uint8)
        hashed.update((codes << np.array([0, 2, 4, 6], np.uint8)).sum(1, dtype=np.uint8).tobytes())
    assert bj.digest(packed.ternary()).trits == hashed.hexdigest()


def another(x):
    """Another input of the same kind."""
    x = np.asarray(x)
    return x if x.dtype.kind in "iub" else (-0.5 * x[::-1]).astype(x.dtype)


def pair(tree):
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x), jnp.asarray(another(x))]), tree)


def assert_both(got, name, params=None, inputs=None):
    """`got` holds what the twin gives for the row and for the row with other values."""
    other = twin_value(name, CASES[name].inputs if inputs is None else inputs, params)
    assert_same(got, jax.tree.map(lambda a, b: jnp.stack([a, b]), expected_alone(name), other))


MAPPED = [name for name, case in CASES.items() if case.vmap]


@pytest.mark.sampled(36)
@pytest.mark.parametrize("name", MAPPED)
def test_vmap_over_inputs(name):
    case = CASES[name]
    params, qat = arrays(case.params), bj.ternarize(case.fn, case.rules)
    mapped = jit(jax.vmap(lambda inputs: qat(params, *inputs, **case.kwargs)))
    assert_both(mapped(pair(case.inputs)), name, inputs=jax.tree.map(another, case.inputs))


@pytest.mark.sampled(36)
@pytest.mark.parametrize("name", MAPPED[1:])
def test_vmap_over_parameters(name):
    case = CASES[name]
    inputs, qat = arrays(case.inputs), bj.ternarize(case.fn, case.rules)
    mapped = jit(jax.vmap(lambda p: qat(p, *inputs, **case.kwargs)))
    assert_both(mapped(pair(case.params)), name, params=jax.tree.map(another, case.params))
