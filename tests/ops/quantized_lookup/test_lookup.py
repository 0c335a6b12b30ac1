"""Rows of a packed table, against `jnp.take` of the table that it stands for."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.quantized_lookup import quantized_lookup, quantized_lookup_p
from bitnet_jax.ops.quantized_lookup.reference import quantized_lookup_reference
from bitnet_jax.quant.kinds import KINDS, quantize_weights
from bitnet_jax.quant.tensor import from_codes

SCALES = [("tensor", 0), ("row", 0), ("group", 4)]
INDICES = np.array([[0, 36, 15], [-1, 16, 37], [-37, -38, 1000]], np.int32)


def table(kind, scale_kind="tensor", group=0, shape=(37, 20), dtype="float32"):
    w = np.random.default_rng(0).standard_normal(shape, np.float32)
    codes, scale = quantize_weights(w, kind, scale_kind, group)
    packed = from_codes(
        codes, scale, kind=kind, scale_kind=scale_kind, group_size=group, dtype=dtype
    )
    return packed, jnp.asarray(packed.dequantize())


def check(found, wanted):
    assert found.dtype == wanted.dtype
    # Widened: numpy knows no NaN of bfloat16.
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(wanted, np.float32))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale_kind", "group"), SCALES)
def test_it_is_take_of_the_table(kind, scale_kind, group):
    w, dense = table(kind, scale_kind, group)
    for mode in ("fill", "clip"):
        want = jnp.take(dense, INDICES, axis=0, mode=mode)
        check(quantized_lookup(w, INDICES, mode=mode), want)
        check(jax.jit(lambda w, i, mode=mode: quantized_lookup(w, i, mode=mode))(w, INDICES), want)
    check(quantized_lookup(w, 5), dense[5])
    check(quantized_lookup(w, INDICES[:0]), jnp.zeros((0, 3, 20)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_have_the_dtype_of_the_parameter(dtype):
    w, dense = table("int8", "row", dtype=dtype)
    check(quantized_lookup(w, INDICES), jnp.take(dense, INDICES, axis=0))
    # XLA may drop a rounding that is widened at once.
    widened = jax.jit(lambda i: quantized_lookup(w, i, mode="clip").astype(jnp.float32))(INDICES)
    check(widened, jnp.take(dense, INDICES, axis=0, mode="clip").astype(jnp.float32))


def test_a_sum_with_the_rows_rounds_twice():
    w, dense = table("int8", "row")
    rows = INDICES.reshape(-1)
    position = np.random.default_rng(1).standard_normal((9, 20), np.float32)
    added = jax.jit(lambda i: quantized_lookup(w, i, mode="clip") + position)(rows)
    check(added, jnp.asarray(np.asarray(jnp.take(dense, rows, axis=0, mode="clip")) + position))


def test_negative_indices_can_be_out_of_range_and_the_filling_chosen():
    w, dense = table("int4")
    found = np.asarray(quantized_lookup(w, INDICES, wrap_negative=False, fill_value=7.0))
    outside = (INDICES < 0) | (INDICES >= 37)
    np.testing.assert_array_equal(found[outside], np.full((outside.sum(), 20), 7.0))
    np.testing.assert_array_equal(found[~outside], np.asarray(dense)[INDICES[~outside]])
    check(quantized_lookup(w, [-2], mode="clip", wrap_negative=True), dense[-2:-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32])
def test_indices_of_any_integer_dtype(dtype):
    w, dense = table("int4", shape=(300, 8))
    check(quantized_lookup(w, np.array([0, 100], dtype)), dense[np.array([0, 100])])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale_kind", "group"), SCALES)
def test_only_the_rows_asked_for_are_read(kind, scale_kind, group):
    w, _ = table(kind, scale_kind, group, shape=(320, 20))
    static = {
        "layout": w.layout, "out_features": 320, "in_features": 20, "scale_kind": scale_kind,
        "group_size": group, "out_dtype": "float32", "mode": "fill", "wrap_negative": True,
        "fill_value": None,
    }  # fmt: skip
    jaxpr = jax.make_jaxpr(lambda *arrays: quantized_lookup_reference(*arrays, **static))(
        w.codes[None], w.scale[None], np.zeros((1, 2), np.int32)
    )
    views = {"reshape", "squeeze", "broadcast_in_dim"}
    for eqn in jaxpr.jaxpr.eqns:
        for out in eqn.outvars:
            # Two rows of a table of 320, padded to whole blocks.
            assert eqn.primitive.name in views or out.aval.size <= 2 * 32, eqn


def test_stacked_tables_are_looked_up_one_by_one_and_vmap_says_the_same():
    w, dense = table("int6", "row", shape=(3, 37, 20))
    index = np.stack([INDICES.reshape(-1), INDICES[::-1].reshape(-1), INDICES.reshape(-1) // 2])
    want = jnp.stack([jnp.take(dense[i], index[i], axis=0) for i in range(3)])
    check(quantized_lookup(w, index), want)
    single = replace(w, shape=w.shape[1:], stack_axes=(), out_axes=(0,), in_axes=(1,))
    check(jax.jit(jax.vmap(quantized_lookup))(single, index), want)
    one = jax.tree.map(lambda leaf: leaf[0], single)
    many = jax.vmap(lambda i: quantized_lookup(one, i))(index)
    check(many, jnp.stack([jnp.take(dense[0], row, axis=0) for row in index]))

    def step(_, pair):
        w, index = pair
        return None, quantized_lookup(replace(single, codes=w.codes, scale=w.scale), index)

    check(jax.lax.scan(step, None, (w, index))[1], want)


def test_outputs_of_several_axes_come_back_in_them():
    w, dense = table("int8", shape=(37, 20))
    folded = replace(w, shape=(4, 37, 5), out_axes=(1,), in_axes=(0, 2))
    check(quantized_lookup(folded, [3, 8]), dense[jnp.array([3, 8])].reshape(2, 4, 5))
    check(quantized_lookup(folded, [3]), jnp.moveaxis(jnp.asarray(folded.dequantize()), 1, 0)[3:4])


@pytest.mark.parametrize(("scale_kind", "group"), SCALES)
def test_the_scale_has_its_gradient(scale_kind, group):
    w, _ = table("int8", scale_kind, group)
    index = np.array([1, 5, 5, 99])
    g = np.random.default_rng(1).standard_normal((4, 20), np.float32)

    def by_op(scale):
        return (quantized_lookup(replace(w, scale=scale), index, fill_value=0.0) * g).sum()

    def by_hand(scale):
        wide = {
            "tensor": lambda: scale,
            "row": lambda: scale[:, None],
            "group": lambda: jnp.repeat(scale, 4, -1),
        }[scale_kind]()
        dense = w.codes_matrix().astype(np.float32) * wide
        return (jnp.take(dense, index, axis=0, fill_value=0.0) * g).sum()

    scale = jnp.asarray(w.scale)
    # Float32 sums of 80 terms of either sign, in another order.
    want = jax.grad(by_hand)(scale)
    np.testing.assert_allclose(
        jax.jit(jax.grad(by_op))(scale), want, rtol=2e-5, atol=2e-6 * float(jnp.abs(want).max())
    )


def test_the_op_stays_whole_in_a_program():
    w, _ = table("ternary")
    text = str(jax.make_jaxpr(lambda w: quantized_lookup(w, INDICES))(w))
    assert quantized_lookup_p.name in text and "gather" not in text


def test_bad_calls_are_refused_by_name():
    w, _ = table("int8")
    stacked, _ = table("int8", shape=(3, 7, 8))
    bad = {
        "op.mode": lambda: quantized_lookup(w, INDICES, mode="drop"),
        "op.dtype": lambda: quantized_lookup(w, INDICES.astype(np.float32)),
        "op.shape": lambda: quantized_lookup(stacked, INDICES[:2]),
    }
    for code, call in bad.items():
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code
    empty, _ = table("int8", shape=(0, 8))
    with pytest.raises(UsageError, match="without rows"):
        quantized_lookup(empty, [0])
    assert quantized_lookup(empty, np.zeros(0, np.int32)).shape == (0, 8)
