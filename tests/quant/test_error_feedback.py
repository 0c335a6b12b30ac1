"""Error feedback: against every possible matrix of codes, and against plain rounding."""

import itertools

import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, UsageError
from bitnet_jax.quant.error_feedback import _factor, _fed, feed_errors
from bitnet_jax.quant.kinds import kind_codes, kind_scale
from bitnet_jax.quant.tensor import broadcast_scale


def case(out=24, inputs=48, seed=0, samples=200):
    rng = np.random.default_rng(seed)
    # Inputs that go together, as a model's do: independent ones leave nothing to feed on.
    mix = rng.normal(size=(inputs, inputs)) * np.exp(-np.arange(inputs) / 8)
    x = rng.normal(size=(samples, inputs)) @ mix.T
    return rng.normal(size=(out, inputs)).astype(np.float32) / 7, x.T @ x


def output_error(weight, codes, scale, hessian, scale_kind="tensor", group=0):
    left = weight - codes * broadcast_scale(scale, scale_kind, group)
    return float(np.trace(left @ hessian @ left.T))


def test_it_lies_between_the_best_of_all_codes_and_plain_rounding():
    """Five inputs have 243 rows of codes: the best of them, at the scale that was chosen."""
    rows = np.array(list(itertools.product((-1, 0, 1), repeat=5)))
    ratios = []
    for seed in range(20):
        weight, hessian = case(out=3, inputs=5, seed=seed)
        found = feed_errors(weight, hessian)
        left = weight[:, None] - rows * float(found.scale)
        best = np.einsum("ori,ij,orj->or", left, hessian, left).min(1).sum()
        assert best * (1 - 1e-9) <= found.error <= found.plain_error
        ratios.append((found.error / best, found.error / found.plain_error))
    to_best, to_plain = np.median(ratios, 0)
    assert to_best < 1.5 and to_plain < 0.75, (to_best, to_plain)


def test_what_is_left_is_the_best_that_it_can_be_after_each_code():
    """The plain meaning: after each code the columns to come are solved for anew."""
    weight, hessian = case(out=6, inputs=12)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(12)
    factor, _ = _factor(hessian, np.zeros(12, bool), 0.01)
    scale = float(kind_scale(weight, "ternary"))
    left, codes = weight.astype(np.float64), np.zeros((6, 12), np.int8)
    for column in range(12):
        codes[:, column] = np.clip(np.rint(left[:, column] / scale), -1, 1)
        fixed, rest = slice(0, column + 1), slice(column + 1, 12)
        error = weight[:, fixed] - scale * codes[:, fixed]
        # The minimum over w of (W - w) H (W - w)' with the first columns of w given.
        mended = np.linalg.solve(damped[rest, rest], damped[rest, fixed] @ error.T).T
        left[:, rest] = weight[:, rest] + mended
    np.testing.assert_array_equal(_fed(weight, np.full(weight.shape, scale), factor, 1), codes)


@pytest.mark.parametrize("kind", ["ternary", "int4", "int8"])
@pytest.mark.parametrize(("scale_kind", "group"), [("tensor", 0), ("row", 0), ("group", 16)])
def test_its_output_error_is_below_plain_roundings(kind, scale_kind, group):
    weight, hessian = case()
    found = feed_errors(weight, hessian, kind, scale_kind, group)
    scale = kind_scale(weight, kind, scale_kind, group)
    plain = kind_codes(weight, scale, kind, scale_kind, group)
    assert found.plain_error == pytest.approx(
        output_error(weight, plain, scale, hessian, scale_kind, group), rel=1e-6
    )
    assert found.error == pytest.approx(
        output_error(weight, found.codes, found.scale, hessian, scale_kind, group), rel=1e-6
    )
    assert found.error < 0.8 * found.plain_error
    assert found.codes.dtype == np.int8 and found.scale.dtype == np.float32
    assert found.scale.shape == scale.shape


def test_blocks_change_nothing(monkeypatch):
    weight, hessian = case(inputs=40)
    factor, _ = _factor(hessian, np.zeros(40, bool), 0.01)
    scale = np.full(weight.shape, 0.1, np.float32)
    whole = _fed(weight, scale, factor, 1)
    monkeypatch.setattr("bitnet_jax.quant.error_feedback._BLOCK", 7)
    np.testing.assert_array_equal(_fed(weight, scale, factor, 1), whole)


def test_inputs_that_are_all_alike_have_nothing_to_feed_on():
    """With H diagonal no column can mend another: at the same scale it is plain rounding."""
    weight, _ = case()
    factor, _ = _factor(np.eye(48) * 3, np.zeros(48, bool), 0.01)
    scale = kind_scale(weight, "ternary")
    codes = _fed(weight, np.full(weight.shape, scale), factor, 1)
    np.testing.assert_array_equal(codes, kind_codes(weight, scale, "ternary"))


def test_dead_inputs_are_rounded_plainly_and_counted():
    weight, hessian = case()
    hessian[[3, 30]] = 0
    hessian[:, [3, 30]] = 0
    found = feed_errors(weight, hessian)
    assert found.dead == 2 and found.error <= found.plain_error
    plain = kind_codes(weight, found.scale, "ternary")
    np.testing.assert_array_equal(found.codes[:, [3, 30]], plain[:, [3, 30]])


def test_nothing_but_dead_inputs_is_plain_rounding():
    weight, _ = case()
    found = feed_errors(weight, np.zeros((48, 48)))
    assert found.multiple is None and found.error == found.plain_error == 0
    np.testing.assert_array_equal(
        found.codes, kind_codes(weight, kind_scale(weight, "ternary"), "ternary")
    )


def test_fewer_samples_than_inputs_are_damped():
    weight, hessian = case(samples=5)
    found = feed_errors(weight, hessian)
    assert np.linalg.matrix_rank(hessian) == 5
    assert np.isfinite(found.error) and found.error < found.plain_error


def test_a_matrix_of_zeros_stays_so():
    _, hessian = case()
    found = feed_errors(np.zeros((4, 48), np.float32), hessian)
    assert not found.codes.any() and found.error == 0 and (found.scale > 0).all()


@pytest.mark.parametrize(
    ("change", "code", "kind"),
    [
        (lambda h: h[:-1], "quant.hessian_shape", UsageError),
        (lambda h: h * np.nan, "quant.hessian", BadData),
        (lambda h: -h, "quant.hessian", BadData),
    ],
)
def test_what_is_no_hessian_is_refused(change, code, kind):
    weight, hessian = case()
    with pytest.raises(kind) as caught:
        feed_errors(weight, change(hessian))
    assert caught.value.code == code


@pytest.mark.parametrize("damping", [0, -1, 2, float("nan")])
def test_damping_is_a_share(damping):
    weight, hessian = case()
    with pytest.raises(UsageError) as caught:
        feed_errors(weight, hessian, damping=damping)
    assert caught.value.code == "quant.damping"
