"""One suite for every implementation and every instruction set this processor has.

Bits are compared with numpy; each transformation of JAX is tried. What the native form
does not take (`Case.native`) must be refused by name, and run by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, Unavailable, UsageError
from bitnet_jax.ops.integer_matmul import integer_matmul, integer_matmul_p
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.ternary_matmul import ternary_matmul
from bitnet_jax.quant.activations import ACTIVATIONS, Activation, quantize, statistic
from bitnet_jax.quant.kinds import KINDS
from bitnet_jax.quant.layouts import LAYOUTS_OF
from bitnet_jax.quant.tensor import from_codes
from tests.thin import each_isa

STATUS = native.status()
FORMS = ["reference", "xla", *each_isa("native/")]
ABSMAX4, ABSMEAN4 = Activation(4, "absmax"), Activation(4, "absmean")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch) -> str:
    """Name of an implementation; the native one with one instruction set forced."""
    implementation, _, isa = request.param.partition("/")
    if isa:
        monkeypatch.setenv("BITNET_ISA", isa)
    return implementation


@pytest.fixture(params=["reference", "xla", *(["native"] if STATUS.available else [])])
def implementation(request) -> str:
    """For what does not depend on the instruction set: transformations."""
    return request.param


@pytest.mark.skipif(not STATUS.available, reason=f"no C++ kernels: {STATUS.reason}")
@pytest.mark.parametrize("isa", native.KNOWN_ISAS)
def test_the_suite_runs_on(isa):
    """One skip for each instruction set that the tests below could not run on."""
    if isa not in STATUS.usable_isas:
        pytest.skip(f"this processor lacks {isa}")


@dataclass(frozen=True)
class Case:
    kind: str
    tokens: int
    out: int
    inputs: int
    scale: str = "tensor"
    group: int = 0
    dtype: str = "float32"
    out_dtype: str | None = None
    activation: Activation = Activation()

    @property
    def native(self) -> bool:
        """Whether the C++ kernels take it."""
        return (
            self.activation == Activation()
            and "float16" not in (self.dtype, self.out_dtype)
            and self.group % 16 == 0
        )

    def __str__(self) -> str:
        activation = f"a{self.activation.bits}{self.activation.statistic}"
        shape = f"{self.tokens}x{self.inputs}x{self.out}"
        return f"{self.kind}-{shape}-{self.scale}{self.group}-{self.dtype}-{activation}"


CASES = (
    Case("int8", 1, 1, 1),
    Case("int8", 1, 70, 250, "row"),
    Case("int8", 1, 33, 96, "group", 16),
    Case("int8", 1, 16, 2560, dtype="bfloat16"),  # sums beyond 2^24: rounded once
    Case("int8", 2, 17, 33, "row", dtype="float16"),
    Case("int8", 9, 40, 64, "group", 32, out_dtype="bfloat16"),
    Case("int8", 9, 40, 64, activation=ABSMEAN4),
    Case("int8", 5, 11, 200, "row", dtype="bfloat16", out_dtype="float32"),
    Case("int8", 4, 6, 1920, "group", 192),
    Case("int8", 70, 21, 130, "row"),  # more tokens than one unit of work
    Case("int8", 17, 50, 1600, "group", 16),
    Case("int6", 1, 37, 129, "row"),
    Case("int6", 1, 96, 2560, "row", out_dtype="bfloat16"),
    Case("int6", 4, 18, 67, dtype="bfloat16"),
    Case("int6", 7, 18, 640, "group", 160),
    Case("int6", 19, 9, 61, "row"),
    Case("int6", 1, 20, 96, "group", 16, "bfloat16"),
    Case("int6", 1, 20, 18, "group", 6),  # groups that share bytes
    Case("int6", 5, 20, 98, activation=ABSMAX4),
    Case("int4", 1, 1, 3),
    Case("int4", 1, 34, 2560, "group", 128, "bfloat16"),
    Case("int4", 2, 35, 257, "row"),
    Case("int4", 6, 10, 224, "group", 112),
    Case("int4", 23, 13, 300),
    Case("int4", 1, 64, 320, "group", 64, activation=ABSMEAN4),
    Case("int4", 1, 31, 15, "group", 5),
    Case("int4", 3, 65, 97, "row", dtype="bfloat16", out_dtype="float32"),
    Case("int4", 3, 65, 97, out_dtype="float16", activation=ABSMAX4),
    Case("ternary", 1, 37, 129, activation=ABSMEAN4),
    Case("ternary", 2, 33, 96, "group", 32, activation=ABSMAX4),
    Case("ternary", 3, 20, 40, dtype="float16"),
)


def scales(rng, case: Case, stack=()) -> np.ndarray:
    tail = {"tensor": (), "row": (case.out,), "group": (case.out, case.inputs // (case.group or 1))}
    return rng.random((*stack, *tail[case.scale]), np.float32) + np.float32(0.01)


def make(rng, case: Case, stack=()):
    """x, codes, scale and the packed weights of a case."""
    x = rng.standard_normal((*stack, case.tokens, case.inputs), np.float32)
    high = KINDS[case.kind].high
    codes = rng.integers(-high, high + 1, (*stack, case.out, case.inputs)).astype(np.int8)
    scale = scales(rng, case, stack)
    w = from_codes(codes, scale, kind=case.kind, scale_kind=case.scale, group_size=case.group)
    return x.astype(DTYPES[case.dtype]), codes, scale, jax.tree.map(jnp.asarray, w)


def numpy_product(x, codes, scale, case: Case, peak=None) -> np.ndarray:
    """The contract in numpy, for one matrix."""
    q, _, token_scale = quantize(x, case.activation, peak)
    q, codes = q.astype(np.int64), codes.astype(np.int64)
    if case.scale == "group":
        total = np.zeros((len(x), len(codes)), np.float32)
        for at in range(case.inputs // case.group):
            columns = slice(at * case.group, (at + 1) * case.group)
            acc = (q[:, columns] @ codes[:, columns].T).astype(np.float32)
            total = total + acc * scale[:, at]
        y = total * token_scale
    else:
        y = (q @ codes.T).astype(np.float32) * (scale * token_scale)
    return y.astype(DTYPES[case.out_dtype or case.dtype])


def run(x, w, form, case: Case, **options):
    def product(x, w, form):
        return integer_matmul(x, w, activation=case.activation, implementation=form, **options)

    # A new function each time, so that a forced instruction set is seen.
    compiled = jax.jit(lambda x, w, form: product(x, w, form), static_argnums=2)
    given = options.get("peak") is not None
    if taken(form, case, given) != form:
        with pytest.raises(Unavailable, match="does not take"):
            compiled(x, w, form)
    return compiled(x, w, taken(form, case, given))


def taken(form: str, case: Case, given: bool = False) -> str:
    """`form`, or "auto" where it does not take the case, with its statistic `given`."""
    return "auto" if form == "native" and (given or not case.native) else form


# --------------------------------------------------------------------------- values
@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_equal_numpy(rng, form, case):
    x, codes, scale, w = make(rng, case)
    y = run(x, w, form, case, out_dtype=case.out_dtype)
    np.testing.assert_array_equal(np.asarray(y), numpy_product(x, codes, scale, case))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("activation", [Activation(*key) for key in ACTIVATIONS], ids=str)
def test_a_statistic_from_outside_replaces_the_tokens_own(rng, form, tokens, activation):
    case = Case("int8", tokens, 20, 40, "row", activation=activation)
    x, codes, scale, w = make(rng, case)
    whole = np.concatenate([x, 3 * x], -1)
    peak = statistic(whole, activation)
    y = run(x, w, form, case, peak=peak)
    np.testing.assert_array_equal(np.asarray(y), numpy_product(x, codes, scale, case, peak))
    own = run(x, w, form, case, peak=statistic(x, activation))
    np.testing.assert_array_equal(np.asarray(own), numpy_product(x, codes, scale, case))


@pytest.mark.parametrize(
    "case",
    [
        Case("ternary", 1, 70, 250, "row"),
        Case("ternary", 1, 33, 96, "group", 32, "bfloat16"),
        Case("ternary", 9, 17, 33),
    ],
    ids=str,
)
def test_ternary_weights_give_the_bits_of_ternary_matmul(rng, form, case):
    x, _, _, w = make(rng, case)
    want = np.asarray(jax.jit(ternary_matmul)(x, w))
    np.testing.assert_array_equal(np.asarray(run(x, w, form, case)), want)
    # With its statistic given it runs as the general op.
    general = run(x, w, form, case, peak=statistic(x))
    np.testing.assert_array_equal(np.asarray(general), want)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_largest_sums_do_not_overflow(form, sign, tokens):
    inputs = (2**31 - 1) // (128 * 127)
    x = np.full((tokens, inputs), -128, np.float32)
    w = from_codes(np.full((2, inputs), sign * 127, np.int8), np.float32(1), kind="int8")
    case = Case("int8", tokens, 2, inputs)
    peak = np.full((tokens, 1), 127, np.float32)  # r = 1
    y = run(x, w, form, case, peak=peak)
    want = np.float32(-128 * 127 * inputs * sign) * np.float32(
        np.float32(127) * np.float32(1 / 127)
    )
    np.testing.assert_array_equal(np.asarray(y), np.full((tokens, 2), want))


def test_a_bad_activation_spoils_its_own_token_and_no_other(rng, form):
    for activation in (Activation(), ABSMEAN4):
        case = Case("int4", 3, 20, 40, activation=activation)
        x, codes, scale, w = make(rng, case)
        good = numpy_product(x, codes, scale, case)
        x[1, 38] = np.nan
        y = np.asarray(run(x, w, form, case))
        assert np.isnan(y[1]).all()
        np.testing.assert_array_equal(y[[0, 2]], good[[0, 2]])


@pytest.mark.parametrize("scale_kind", ["tensor", "row"])
def test_what_surrounds_the_op_leaves_its_bits_alone(rng, form, scale_kind):
    case = Case("int8", 5, 40, 40, scale_kind, activation=ABSMEAN4)
    x, codes, scale, w = make(rng, case)
    y = numpy_product(x, codes, scale, case)

    @jax.jit
    def residual(x):  # w constant: XLA could fold its scale into 1/√7
        return x + integer_matmul(x, w, activation=ABSMEAN4, implementation=taken(form, case))

    np.testing.assert_array_equal(np.asarray(residual(x)), x + y)
    half = x.astype(np.float16)
    narrow = jax.jit(
        lambda x: integer_matmul(
            x.astype(jnp.float16), w, activation=ABSMEAN4, implementation=taken(form, case)
        ).astype(jnp.float32)
    )(x)
    want = numpy_product(half, codes, scale, replace(case, dtype="float16"))
    np.testing.assert_array_equal(np.asarray(narrow), want.astype(np.float32))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
def test_axes_of_size_zero_and_leading_axes(rng, form, kind):
    case = Case(kind, 6, 20, 40, activation=ABSMAX4)
    x, codes, scale, w = make(rng, case)
    y = run(x.reshape(2, 3, 40), w, form, case)
    want = numpy_product(x, codes, scale, case)
    np.testing.assert_array_equal(np.asarray(y).reshape(6, 20), want)
    assert run(x[0], w, form, case).shape == (20,)
    assert run(x[:0], w, form, case).shape == (0, 20)
    for out, inputs in ((0, 40), (20, 0)):
        empty = from_codes(np.zeros((out, inputs), np.int8), np.float32(1), kind=kind)
        found = run(x[:, :inputs], empty, form, case)
        np.testing.assert_array_equal(np.asarray(found), np.zeros((6, out), np.float32))
        assert run(x[:1, :inputs], empty, form, case).shape == (1, out)


# ------------------------------------------------------------------- transformations
@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("case", "given"),
    [
        (Case("int8", 3, 20, 32), False),
        (Case("int4", 1, 20, 32, "group", 16, activation=ABSMEAN4), True),
    ],
    ids=str,
)
@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (0, 0)], ids=str)
def test_vmap_equals_a_loop(rng, implementation, case, axes, given):
    x_axis, w_axis = axes
    n = 4
    x, codes, scale, w = make(rng, case, stack=(n,))
    if x_axis is None:
        x = np.broadcast_to(x[0], x.shape)
    if w_axis is None:
        codes, scale = (np.broadcast_to(v[0], v.shape) for v in (codes, scale))
    peak = 2 * statistic(x, case.activation) if given else None
    form = taken(implementation, case, given)
    want = np.stack(
        [
            numpy_product(x[i], codes[i], scale[i], case, None if peak is None else peak[i])
            for i in range(n)
        ]
    )
    single = replace(w, shape=w.shape[1:], stack_axes=(), out_axes=(0,), in_axes=(1,))
    if w_axis is None:
        single = jax.tree.map(lambda leaf: leaf[0], single)

    def product(x, w, peak):
        return integer_matmul(x, w, activation=case.activation, peak=peak, implementation=form)

    mapped = jax.vmap(product, (x_axis, w_axis, x_axis))
    moved = [
        v if v is None else v[0] if x_axis is None else np.moveaxis(v, 0, x_axis) for v in (x, peak)
    ]
    y = jax.jit(mapped)(moved[0], single, moved[1])
    np.testing.assert_array_equal(np.asarray(y), want)
    if axes == (0, 0):
        # A stacked weight says the same as vmap over both.
        np.testing.assert_array_equal(np.asarray(run(x, w, implementation, case, peak=peak)), want)


def test_vmap_over_scales_or_statistics_alone(rng, implementation):
    case = Case("int6", 2, 20, 32, "row")
    x, codes, _, w = make(rng, case)
    many = scales(rng, case, stack=(3,))
    form = taken(implementation, case, given=True)
    peaks = statistic(x) * np.arange(1, 4, dtype=np.float32)[:, None, None]

    def product(scale, peak):
        return integer_matmul(x, replace(w, scale=scale), peak=peak, implementation=form)

    y = np.asarray(jax.jit(jax.vmap(product))(many, peaks))
    same = np.asarray(jax.jit(jax.vmap(product, (None, 0)))(many[0], peaks))
    for i in range(3):
        np.testing.assert_array_equal(y[i], numpy_product(x, codes, many[i], case, peaks[i]))
        np.testing.assert_array_equal(same[i], numpy_product(x, codes, many[0], case, peaks[i]))


def test_batching_tokens_leaves_the_codes_alone(rng):
    x, _, _, w = make(rng, Case("int4", 3, 20, 32))
    peak = statistic(x)
    mapped = jax.vmap(lambda x: integer_matmul(x, w, peak=peak))
    text = str(jax.make_jaxpr(mapped)(np.stack([x] * 5)))
    assert integer_matmul_p.name in text
    assert "u8[1,20,16]" in text and "u8[5" not in text
    assert "f32[1,15,32]" in text and "f32[1,15,1]" in text


@pytest.mark.parametrize(
    ("case", "given"),
    [
        (Case("int8", 3, 20, 32), False),
        (Case("int6", 3, 20, 32, "row", activation=ABSMAX4), True),
        (Case("int4", 3, 20, 32, "group", 16), False),
    ],
    ids=str,
)
def test_gradient_is_the_straight_through_one(rng, implementation, case, given):
    x, codes, scale, w = make(rng, case)
    target = rng.standard_normal((case.tokens, case.out), np.float32)
    form = taken(implementation, case, given)
    peak = 2 * statistic(x, case.activation) if given else None

    def by_hand(x, scale):
        """The same function of dense floats, rounding counted as the identity."""
        q, _, token_scale = quantize(jax.lax.stop_gradient(x), case.activation, peak)
        rounded = q.astype(jnp.float32) * token_scale
        x = x + jax.lax.stop_gradient(rounded - x)
        wide = {
            "tensor": lambda: scale,
            "row": lambda: scale[:, None],
            "group": lambda: jnp.repeat(scale, case.group, -1),
        }[case.scale]()
        return ((x @ (codes.astype(np.float32) * wide).T - target) ** 2).sum()

    def by_op(x, scale):
        y = integer_matmul(
            x, replace(w, scale=scale), activation=case.activation, peak=peak, implementation=form
        )
        return ((y - target) ** 2).sum()

    x = jnp.asarray(x)
    want = jax.value_and_grad(by_hand, (0, 1))(x, scale)
    got = jax.jit(jax.value_and_grad(by_op, (0, 1)))(x, scale)
    # Float32 sums of at most 60 terms of either sign in another order: of the largest
    # result, a few units in the last place.
    for found, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        largest = float(np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6 * largest)


def test_the_statistic_has_no_gradient_and_bfloat16_keeps_its_dtype(rng):
    x, _, _, w = make(rng, Case("int8", 2, 20, 40, dtype="bfloat16"))

    def loss(x, peak):
        return integer_matmul(x, w, peak=peak).astype(jnp.float32).sum()

    dx, d_peak = jax.grad(loss, (0, 1))(jnp.asarray(x), jnp.asarray(statistic(x)))
    assert (dx.dtype, dx.shape) == (jnp.bfloat16, (2, 40))
    assert not np.asarray(d_peak).any()


def test_scan_over_stacked_layers_with_remat(rng, implementation):
    case = Case("int4", 3, 32, 32, "row")
    x, codes, scale, w = make(rng, case, stack=(4,))
    scale, w = scale / 32, replace(w, scale=w.scale / 32)

    def product(h, w):
        return h + integer_matmul(h, w, implementation=implementation)

    @jax.checkpoint
    def layer(h, w):
        w = replace(w, shape=w.shape[1:], stack_axes=(), out_axes=(0,), in_axes=(1,))
        return product(h, w), None

    def loss(h, scale):
        return jax.lax.scan(layer, h, replace(w, scale=scale))[0].sum()

    def unrolled(h, scale):
        for i in range(4):
            h = product(h, from_codes(codes[i], scale[i], kind="int4", scale_kind="row"))
        return h.sum()

    got = jax.jit(jax.value_and_grad(loss, (0, 1)))(x[0], scale)
    want = jax.jit(jax.value_and_grad(unrolled, (0, 1)))(x[0], scale)
    # The same operations; XLA may add the four layers' gradients in another order.
    for found, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_same_without_jit(rng, implementation):
    case = Case("int6", 3, 20, 40)
    x, codes, scale, w = make(rng, case)
    y = integer_matmul(x, w, implementation=implementation)
    np.testing.assert_array_equal(np.asarray(y), numpy_product(x, codes, scale, case))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_lower_without_a_custom_call(rng, platform):
    x, _, _, w = make(rng, Case("int4", 1, 20, 40))
    exported = jax.export.export(jax.jit(lambda x: integer_matmul(x, w)), platforms=[platform])(x)
    assert "stablehlo.custom_call" not in exported.mlir_module()


# ----------------------------------------------------------------------------- errors
def bad_calls():
    x = np.zeros((2, 40), np.float32)
    w = from_codes(np.zeros((20, 40), np.int8), np.float32(1), kind="int8")
    wide = replace(w, shape=(20, 132_105))
    return {
        "op.implementation_unknown": lambda: integer_matmul(x, w, implementation="nativ"),
        "op.shape": lambda: integer_matmul(x[:, :39], w),
        "op.dtype": lambda: integer_matmul(x.astype(np.int8), w),
        "op.layout": lambda: integer_matmul(x, replace(w, layout="i4.rows")),
        "op.in_features": lambda: integer_matmul(x, wide),
    }


@pytest.mark.parametrize("code", bad_calls())
def test_bad_calls_are_refused_by_name(code):
    with pytest.raises(UsageError) as caught:
        bad_calls()[code]()
    assert caught.value.code == code


def test_a_statistic_of_another_shape_and_an_unknown_layout_are_refused():
    x = np.zeros((2, 40), np.float32)
    w = from_codes(np.zeros((20, 40), np.int8), np.float32(1), kind="int8")
    with pytest.raises(UsageError, match=r"needs peak \[2, 1\], found \[2\]"):
        integer_matmul(x, w, peak=np.ones(2, np.float32))
    with pytest.raises(UsageError, match="int8 in i8.columns"):
        integer_matmul(x, replace(w, layout="i8.columns"))
    with pytest.raises(BadData, match="known: t2.16x16"):
        replace(w, layout="i8.columns").codes_matrix()


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_ternary_weights_in_either_layout_give_the_same(implementation, tokens):
    rng = np.random.default_rng(0)
    trits = rng.integers(-1, 2, (33, 100)).astype(np.int8)
    x = rng.standard_normal((tokens, 100), np.float32)
    plain, dense = (
        integer_matmul(
            x,
            from_codes(trits, np.float32(0.3), layout=layout),
            activation=Activation(4, "absmax"),
            implementation=implementation,
        )
        for layout in LAYOUTS_OF["ternary"]
    )
    np.testing.assert_array_equal(plain, dense)
