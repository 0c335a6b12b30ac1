"""Every combination of use, slice, scale, note and kind: packed equals trained, or both refuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BitnetError

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(3, 48, 32)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(6, 48)), jnp.float32)
SIZES = jnp.array([1, 3, 2])

USES = {
    "dot": lambda x, w: x @ w[0],
    "batched": lambda x, w: jnp.einsum("ti,eio->eto", x, w),
    "ragged": lambda x, w: jax.lax.ragged_dot(x, w, SIZES),
}
SLICES = {
    "whole": (slice(None), slice(None)),
    "inputs": (slice(16, 48), slice(None)),
    "torn inputs": (slice(8, 40), slice(None)),
    "every second input": (slice(None, None, 2), slice(None)),
    "outputs": (slice(None), slice(8, 24)),
    "every third output": (slice(None), slice(None, None, 3)),
}
SCALES = ("tensor", "row", "group-16")
NOTES = {
    "none": [],
    "masked": [bj.KeepNofM("w", n=2, m=4)],
    "learned": [bj.LearnedScale("w", stack=(0,))],
    "four bits": [bj.QuantizedActivations("w")],
}
KINDS = ("ternary", "int8")
PARTS = ("whole", "inputs", "outputs")
CELLS = [
    *itertools.product(USES, SLICES, SCALES, ["none"], ["ternary"]),
    *itertools.product(USES, PARTS, ("tensor", "group-16"), ["masked", "four bits"], ["ternary"]),
    *itertools.product(USES, PARTS, ("tensor",), ["learned"], ["ternary"]),
    *itertools.product(USES, ("whole", "inputs"), SCALES, ["none"], ["int8"]),
]
# Bits do not depend on how hard XLA tries, and it compiles faster so.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def outcome(run):
    try:
        return np.asarray(run())
    except BitnetError as error:
        return np.asarray(error.code)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_packed_equals_trained_or_both_refuse(cell):
    use, part, scale, note, kind = cell
    inputs, outputs = SLICES[part]

    def model(p, x):
        return USES[use](x[:, inputs], p["w"][:, inputs, outputs])

    rules = [bj.Rule("w", to=kind, scale=scale, stack=(0,))]
    fn, params = bj.transform(model, {"w": W}, NOTES[note], X)
    qat = outcome(lambda: jit(bj.ternarize(fn, rules))(params, X))
    again = outcome(lambda: jit(bj.ternarize(fn, rules, forward="int8"))(params, X))
    packed = outcome(
        lambda: jit(bj.ternarize(fn, rules, mode="packed"))(bj.pack(fn, params, rules, X), X)
    )
    np.testing.assert_array_equal(packed, qat)
    np.testing.assert_array_equal(again, qat)
    torn = scale == "group-16" and part in ("torn inputs", "every second input")
    assert (qat.dtype.kind == "U") == torn
    if not torn:
        # λ = 0 is the float function, whatever a step asks of the quantized one
        at_zero = jit(bj.ternarize(fn, rules))(params, X, lam=0.0)
        np.testing.assert_allclose(at_zero, jit(fn)(params, X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use", USES)
def test_gradients_of_the_integer_forward_are_those_of_the_float_one(use):
    def loss(forward):
        qat = bj.ternarize(lambda p, x: USES[use](x, p["w"]), [bj.Rule("w")], forward=forward)
        return jax.grad(lambda p: (qat(p, X) ** 2).sum())({"w": W})["w"]

    np.testing.assert_allclose(loss("int8"), loss("float32"), rtol=1e-5, atol=1e-4)
