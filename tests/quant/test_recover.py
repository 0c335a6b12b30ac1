"""Trits and scales, back from floats; what one scale for all would cost."""

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.quant.recover import one_scale_loss, recover
from bitnet_jax.quant.ternary import from_trits


def some(rng, shape=(6, 96)):
    trits = rng.integers(-1, 2, shape).astype(np.int8)
    trits[:, ::16] = 1  # no group of 16 is all zeros
    return trits


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize(
    ("kind", "group"), [("tensor", 0), ("row", 0), ("group", 48), ("group", 16)]
)
def test_what_was_multiplied_is_found_again(rng, kind, group, dtype):
    trits = some(rng)
    shape = {"tensor": (), "row": (6,), "group": (6, 96 // (group or 96))}[kind]
    scale = rng.uniform(0.5, 2, shape).astype(dtype).astype(np.float32)
    tensor = from_trits(trits, scale, scale_kind=kind, group_size=group)
    found = recover(tensor.weight().astype(dtype))
    assert found is not None and (found.scale_kind, found.group_size) == (kind, group)
    np.testing.assert_array_equal(found.trits, trits)
    np.testing.assert_array_equal(found.scale, scale)


def test_the_fewest_scales_are_taken(rng):
    trits = some(rng)
    scale = np.repeat(rng.uniform(0.5, 2, (6, 1)), 6, axis=1).astype(np.float32)
    found = recover(from_trits(trits, scale, scale_kind="group", group_size=16).weight())
    assert found is not None and found.scale_kind == "row"
    np.testing.assert_array_equal(found.scale, scale[:, 0])


def test_zeros_have_the_smallest_scale(rng):
    found = recover(np.zeros((3, 32), np.float32))
    assert found is not None and found.scale_kind == "tensor" and found.scale == np.float32(1e-5)
    weights = from_trits(
        some(rng), rng.uniform(1, 2, 6).astype(np.float32), scale_kind="row"
    ).weight()
    weights[2] = 0
    found = recover(weights)
    assert found is not None and found.scale_kind == "row" and found.scale[2] == np.float32(1e-5)


@pytest.mark.parametrize("inputs", [96, 40, 15])
def test_floats_are_not_ternary(rng, inputs):
    assert recover(rng.standard_normal((6, inputs)).astype(np.float32)) is None


def test_one_weight_that_differs_is_seen(rng):
    weights = from_trits(
        some(rng), rng.uniform(1, 2, 6).astype(np.float32), scale_kind="row"
    ).weight()
    weights[4, 48] *= 1.001
    assert recover(weights) is None


@pytest.mark.parametrize(("kind", "group"), [("row", 0), ("group", 32)])
def test_the_price_is_that_of_the_best_scale(rng, kind, group):
    trits = some(rng)
    shape = (6,) if kind == "row" else (6, 3)
    scale = rng.uniform(0.1, 3, shape).astype(np.float32)
    tensor = from_trits(trits, scale, scale_kind=kind, group_size=group)
    weights = tensor.weight().astype(np.float64)

    def loss(one):
        return np.sqrt(np.sum((weights - one * trits) ** 2) / np.sum(weights**2))

    best = min(loss(one) for one in np.linspace(0.1, 3, 3001))
    assert one_scale_loss([tensor]) == pytest.approx(best, rel=1e-5)
    halves = [
        from_trits(trits[rows], scale[rows], scale_kind=kind, group_size=group)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    assert one_scale_loss(halves) == pytest.approx(one_scale_loss([tensor]))


def test_equal_scales_cost_nothing(rng):
    one = from_trits(some(rng), np.float32(0.7))
    assert one_scale_loss([one, one]) == 0
    assert one_scale_loss([from_trits(np.zeros((2, 16), np.int8), np.float32(1))]) == 0
