"""One suite for every implementation and every instruction set this processor has.

Bits are compared with numpy, not tolerances: the contract fixes each float operation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.ops.native import library as native
from bitnet_jax.ops.native.selftest import ACCUMULATE, LAYOUT_IDS, expected
from bitnet_jax.ops.ternary_matmul import (
    ternary_accumulate,
    ternary_accumulate_p,
    ternary_matmul,
    ternary_matmul_p,
)
from bitnet_jax.quant.layouts import LAYOUTS_OF, pack_codes
from bitnet_jax.quant.tensor import TERNARY, from_codes
from bitnet_jax.quant.ternary import from_trits
from tests.thin import each_isa

STATUS = native.status()
LAYOUTS = LAYOUTS_OF[TERNARY]
FORMS = ["reference", "xla", *each_isa("native/")]
needs_kernels = pytest.mark.skipif(not STATUS.available, reason=f"no C++ kernels: {STATUS.reason}")


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


@needs_kernels
@pytest.mark.parametrize("isa", native.KNOWN_ISAS)
def test_the_suite_runs_on(isa):
    """One skip for each instruction set that the tests below could not run on."""
    if isa not in STATUS.usable_isas:
        pytest.skip(f"this processor lacks {isa}")


@dataclass(frozen=True)
class Case:
    tokens: int
    out: int
    inputs: int
    kind: str = "tensor"
    group: int = 0
    dtype: str = "float32"
    out_dtype: str | None = None
    layout: str = "t2.16x16"

    def __str__(self) -> str:
        out = f"-{self.out_dtype}" if self.out_dtype else ""
        out += "" if self.layout == "t2.16x16" else f"-{self.layout}"
        return f"{self.tokens}x{self.inputs}x{self.out}-{self.kind}{self.group}-{self.dtype}{out}"


CASES = (
    Case(1, 16, 16),
    Case(1, 1, 1),
    Case(1, 70, 250, "row"),
    Case(1, 100, 320, "group", 64, "bfloat16"),
    Case(1, 96, 2560, out_dtype="bfloat16"),
    Case(2, 17, 33, "row", dtype="bfloat16"),
    Case(3, 65, 96, "group", 16),
    Case(4, 33, 96, "group", 96),
    Case(8, 31, 100),
    Case(8, 40, 64, "group", 32, out_dtype="bfloat16"),
    Case(17, 37, 129, "row", dtype="bfloat16", out_dtype="float32"),
    Case(17, 50, 1600, "group", 16),  # a hundred groups: past the kernel's stack buffer
    Case(70, 19, 48),  # more tokens than one unit of work
    *(
        replace(case, layout="t1.16x20")
        for case in (
            Case(1, 1, 1),
            Case(1, 70, 250, "row"),
            Case(1, 33, 320, "group", 80, "bfloat16"),
            Case(1, 96, 2560, out_dtype="bfloat16"),
            *(Case(tokens, 33, 100) for tokens in range(2, 9)),  # a tile of each height
            Case(17, 37, 129, "row", dtype="bfloat16", out_dtype="float32"),
            Case(17, 50, 1600, "group", 80),
            Case(70, 19, 48),
        )
    ),
)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def scales(rng, case: Case, stack=()) -> np.ndarray:
    tail = {"tensor": (), "row": (case.out,), "group": (case.out, case.inputs // (case.group or 1))}
    return rng.random((*stack, *tail[case.kind]), np.float32) + np.float32(0.01)


def make(rng, case: Case, stack=()):
    """x, trits, scale and the packed weights of a case."""
    x = rng.standard_normal((*stack, case.tokens, case.inputs), np.float32)
    x = x.astype(DTYPES[case.dtype])
    trits = rng.integers(-1, 2, (*stack, case.out, case.inputs), np.int8)
    scale = scales(rng, case, stack)
    w = from_codes(trits, scale, scale_kind=case.kind, group_size=case.group, layout=case.layout)
    return x, trits, scale, jax.tree.map(jnp.asarray, w)


def numpy_product(x, trits, scale, case: Case) -> np.ndarray:
    y = expected(np.asarray(x, np.float32), trits, scale, case.kind, case.group)
    return y.astype(DTYPES[case.out_dtype or case.dtype])


def run(x, w, form, **options):
    # A new function each time, so that a forced instruction set is seen.
    return jax.jit(lambda x, w: ternary_matmul(x, w, implementation=form, **options))(x, w)


# --------------------------------------------------------------------------- values
@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_equal_numpy(rng, form, case):
    x, trits, scale, w = make(rng, case)
    y = run(x, w, form, out_dtype=case.out_dtype)
    np.testing.assert_array_equal(np.asarray(y), numpy_product(x, trits, scale, case))


@pytest.mark.parametrize("tokens", [1, 3, 17])
@pytest.mark.parametrize("shape", [(5, 3), (49, 161), (130, 1040)], ids=str)
def test_accumulators_equal_int64(rng, form, tokens, shape):
    q = rng.integers(-128, 128, (tokens, shape[1]), np.int8)
    trits = rng.integers(-1, 2, shape, np.int8)
    w = from_trits(trits, np.float32(1))
    acc = jax.jit(lambda q, w: ternary_accumulate(q, w, implementation=form))(q, w)
    assert acc.dtype == jnp.int32
    np.testing.assert_array_equal(np.asarray(acc), q.astype(np.int64) @ trits.T.astype(np.int64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("tokens", [1, 8])
def test_largest_sums_do_not_overflow(form, sign, tokens, layout):
    q = np.full((tokens, 7000), -128, np.int8)
    w = from_codes(np.full((16, 7000), sign, np.int8), np.float32(1), layout=layout)
    acc = jax.jit(lambda q, w: ternary_accumulate(q, w, implementation=form))(q, w)
    assert np.asarray(acc).tolist() == [[-128 * 7000 * sign] * 16] * tokens


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("isa", STATUS.usable_isas)
def test_sums_that_are_kept_too_large_are_folded_in_time(isa, layout):
    # One token's codes are multiplied where they lie in a byte: 64 times too large.
    columns = 700_000
    q = np.full((1, columns), 127, np.int8)
    codes = pack_codes(np.ones((16, columns), np.int8), layout)
    acc = np.empty((1, 16), np.int32)
    sizes = (1, 1, 16, columns, ACCUMULATE, 0, 0, 0, LAYOUT_IDS[layout])
    native.library().run(isa, sizes, q, codes, np.zeros(1, np.float32), acc)
    assert acc.tolist() == [[127 * columns] * 16]


def test_zero_tiny_huge_and_half_way_activations(rng, form):
    case = Case(7, 33, 80)
    x, trits, scale, w = make(rng, case)
    x[0] = 0
    x[1] *= 1e-30
    x[2] *= 1e30
    x[3] = 1e-5  # the smallest absmax itself
    x[4] = (np.arange(80) - 40) / 2
    x[4, 0] = 127  # r = 1, so halves stay halves and round to even
    x[5, 1:] = 0
    x[6] = -3.0
    y = np.asarray(run(x, w, form))
    np.testing.assert_array_equal(y, numpy_product(x, trits, scale, case))
    assert not y[0].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_a_bad_activation_spoils_its_own_token_and_no_other(rng, form, bad):
    case = Case(3, 20, 40)
    x, trits, scale, w = make(rng, case)
    good = numpy_product(x, trits, scale, case)
    x[1, 38] = bad
    y = np.asarray(run(x, w, form))
    assert not np.isfinite(y[1]).any()
    np.testing.assert_array_equal(y[[0, 2]], good[[0, 2]])


def test_leading_axes_and_no_tokens(rng, form):
    case = Case(6, 20, 40)
    x, trits, scale, w = make(rng, case)
    y = run(x.reshape(2, 3, 40), w, form)
    np.testing.assert_array_equal(
        np.asarray(y).reshape(6, 20), numpy_product(x, trits, scale, case)
    )
    assert run(x[0], w, form).shape == (20,)
    assert run(x[:0], w, form).shape == (0, 20)


def test_casts_around_the_op_keep_their_rounding(rng, form):
    # XLA drops a float32 -> bfloat16 -> float32 pair of casts, and its rounding with it.
    case = Case(3, 20, 40)
    x, trits, scale, w = make(rng, case)

    @jax.jit
    def inside(x, w):
        y = ternary_matmul(x.astype(jnp.bfloat16), w, implementation=form)
        return y.astype(jnp.float32)

    want = numpy_product(
        x.astype(ml_dtypes.bfloat16), trits, scale, replace(case, dtype="bfloat16")
    )
    np.testing.assert_array_equal(np.asarray(inside(x, w)), want.astype(np.float32))


@pytest.mark.parametrize("kind", ["tensor", "row"])
def test_constant_weights_give_the_same_bits(rng, form, kind):
    # With a constant scale XLA could fold s * (a * c) to a * (s * c).
    case = Case(5, 20, 40, kind)
    x, trits, scale, w = make(rng, case)
    y = jax.jit(lambda x: ternary_matmul(x, w, implementation=form))(x)
    np.testing.assert_array_equal(np.asarray(y), numpy_product(x, trits, scale, case))


# ------------------------------------------------------------------- transformations
@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [Case(3, 20, 32), Case(2, 20, 32, "group", 16)], ids=str)
@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (0, 0), (2, 0)], ids=str)
def test_vmap_equals_a_loop(rng, implementation, case, axes):
    x_axis, w_axis = axes
    n = 4
    x, trits, scale, w = make(rng, case, stack=(n,))
    if x_axis is None:
        x = np.broadcast_to(x[0], x.shape)
    if w_axis is None:
        trits, scale = (
            np.broadcast_to(trits[0], trits.shape),
            np.broadcast_to(scale[0], scale.shape),
        )
    want = np.stack([numpy_product(x[i], trits[i], scale[i], case) for i in range(n)])
    single = replace(w, shape=w.shape[1:], stack_axes=(), out_axes=(0,), in_axes=(1,))
    if w_axis is None:
        single = jax.tree.map(lambda leaf: leaf[0], single)
    given = x[0] if x_axis is None else np.moveaxis(x, 0, x_axis)
    mapped = jax.vmap(lambda x, w: ternary_matmul(x, w, implementation=implementation), axes)
    np.testing.assert_array_equal(np.asarray(jax.jit(mapped)(given, single)), want)
    if x_axis is None:
        return
    if axes == (0, 0):
        # A stacked weight says the same as vmap over both.
        np.testing.assert_array_equal(np.asarray(run(x, w, implementation)), want)


def test_vmap_of_vmap_and_of_scales_alone(rng, implementation):
    case = Case(2, 20, 32, "row")
    x, trits, _, w = make(rng, case)
    many = scales(rng, case, stack=(3,))

    def product(x, scale):
        return ternary_matmul(x, replace(w, scale=scale), implementation=implementation)

    inner = jax.vmap(product, (None, 0))
    y = jax.jit(jax.vmap(inner, (0, None)))(np.stack([x, x * 2]), many)
    for i, each in enumerate((x, x * 2)):
        for j in range(3):
            want = numpy_product(each, trits, many[j], case)
            np.testing.assert_array_equal(np.asarray(y)[i, j], want)


def equations(jaxpr, primitive):
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive is primitive:
            found.append(eqn)
        for sub in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(sub, "jaxpr", sub)
            if hasattr(inner, "eqns"):
                found += equations(inner, primitive)
    return found


def test_batching_tokens_folds_them_and_leaves_the_codes_alone(rng):
    x, _, _, w = make(rng, Case(3, 20, 32))
    mapped = jax.vmap(lambda x: ternary_matmul(x, w))
    (eqn,) = equations(jax.make_jaxpr(mapped)(np.stack([x] * 5)).jaxpr, ternary_matmul_p)
    assert [v.aval.shape for v in eqn.invars[:2]] == [(1, 15, 32), (1, 2, 2, 64)]
    (eqn,) = equations(
        jax.make_jaxpr(jax.vmap(lambda q: ternary_accumulate(q, w)))(
            np.zeros((5, 3, 32), np.int8)
        ).jaxpr,
        ternary_accumulate_p,
    )
    assert [v.aval.shape for v in eqn.invars] == [(1, 15, 32), (1, 2, 2, 64)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "case", [Case(3, 20, 32), Case(3, 20, 32, "row"), Case(3, 20, 32, "group", 16)], ids=str
)
def test_gradient_is_the_straight_through_one(rng, implementation, case):
    x, trits, scale, w = make(rng, case)
    target = rng.standard_normal((case.tokens, case.out), np.float32)

    def by_hand(x, scale):
        """The same function of dense floats, rounding counted as the identity."""
        a = jax.lax.stop_gradient(jnp.maximum(jnp.abs(x).max(-1, keepdims=True), 1e-5))
        rounded = jnp.clip(jnp.rint(x * (127 / a)), -128, 127) * (a / 127)
        x = x + jax.lax.stop_gradient(rounded - x)
        wide = {
            "tensor": lambda: scale,
            "row": lambda: scale[:, None],
            "group": lambda: jnp.repeat(scale, case.group, -1),
        }[case.kind]()
        return ((x @ (trits.astype(np.float32) * wide).T - target) ** 2).sum()

    def by_op(x, scale):
        y = ternary_matmul(x, replace(w, scale=scale), implementation=implementation)
        return ((y - target) ** 2).sum()

    want = jax.value_and_grad(by_hand, (0, 1))(x, scale)
    got = jax.jit(jax.value_and_grad(by_op, (0, 1)))(x, scale)
    # Float32 sums of at most 60 terms in another order: a few units in the last place.
    jax.tree.map(lambda g, v: np.testing.assert_allclose(g, v, rtol=2e-5, atol=1e-5), got, want)


def test_gradient_of_bfloat16_activations_is_bfloat16(rng):
    x, _, _, w = make(rng, Case(2, 20, 40, dtype="bfloat16"))
    g = jax.grad(lambda x: ternary_matmul(x, w).astype(jnp.float32).sum())(jnp.asarray(x))
    assert (g.dtype, g.shape) == (jnp.bfloat16, (2, 40))


def test_activations_alone_keep_no_residual_of_x(rng):
    x, _, _, w = make(rng, Case(2, 20, 40))
    _, pullback = jax.vjp(lambda x: ternary_matmul(x, w), jnp.asarray(x))
    assert (1, 2, 40) not in [leaf.shape for leaf in jax.tree.leaves(pullback)]


def test_scan_over_stacked_layers_with_remat(rng, implementation):
    case = Case(3, 32, 32)
    x, trits, scale, w = make(rng, case, stack=(4,))

    @jax.checkpoint
    def layer(h, w):
        w = replace(w, shape=w.shape[1:], stack_axes=(), out_axes=(0,), in_axes=(1,))
        return h + ternary_matmul(h, w, implementation=implementation), None

    def loss(h, scale):
        return jax.lax.scan(layer, h, replace(w, scale=scale))[0].sum()

    def unrolled(h, scale):
        for i in range(4):
            w_i = from_trits(trits[i], scale[i])
            h = h + ternary_matmul(h, w_i, implementation=implementation)
        return h.sum()

    got = jax.jit(jax.value_and_grad(loss, (0, 1)))(x[0], scale)
    want = jax.jit(jax.value_and_grad(unrolled, (0, 1)))(x[0], scale)
    # The same operations; XLA may add the four layers' gradients in another order.
    jax.tree.map(lambda g, v: np.testing.assert_allclose(g, v, rtol=1e-5, atol=1e-4), got, want)


def test_the_same_without_jit(rng):
    x, trits, scale, w = make(rng, Case(3, 20, 40))
    y = ternary_matmul(x, w)
    np.testing.assert_array_equal(np.asarray(y), numpy_product(x, trits, scale, Case(3, 20, 40)))


# -------------------------------------------------------------- threads, lowering, errors
@needs_kernels
@pytest.mark.parametrize("isa", STATUS.usable_isas)
def test_any_number_of_threads_gives_the_same_bits(rng, isa):
    case = Case(9, 500, 320, "group", 64)
    x, trits, scale, w = make(rng, case)
    want = numpy_product(x, trits, scale, case)
    for threads in (1, 2, 3, 7):
        y = np.empty((9, 500), np.float32)
        sizes = (1, 9, 500, 320, 2, 64, 0, 0)
        native.library().run(isa, sizes, x, np.asarray(w.codes), scale, y, threads)
        np.testing.assert_array_equal(y, want)


@needs_kernels
def test_many_calls_at_once_finish(rng):
    # Callers wait in XLA's own pool: more of them than threads must not deadlock.
    x, trits, scale, w = make(rng, Case(4, 512, 1024))
    product = jax.jit(lambda x, w: ternary_matmul(x, w, implementation="native"))

    @jax.jit
    def wide(x, w):
        return [product(x * jnp.float32(2**i), w) for i in range(16)]

    want = numpy_product(x, trits, scale, Case(4, 512, 1024))
    for _ in range(3):
        results = [wide(x, w) for _ in range(8)]
        for i, y in enumerate(results[-1]):
            np.testing.assert_array_equal(np.asarray(y), want * np.float32(2**i))


@needs_kernels
def test_the_lowered_call_names_its_instruction_set(rng, monkeypatch):
    x, _, _, w = make(rng, Case(1, 20, 40))
    for index, isa in enumerate(native.library().isas):
        if isa in STATUS.usable_isas:
            monkeypatch.setenv("BITNET_ISA", isa)
            text = jax.jit(lambda x: ternary_matmul(x, w)).lower(x).as_text()
            assert "bitnet_ternary_matmul" in text and f"isa = {index} : i64" in text


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_lower_without_a_custom_call(rng, platform):
    x, _, _, w = make(rng, Case(1, 20, 40))
    exported = jax.export.export(jax.jit(lambda x: ternary_matmul(x, w)), platforms=[platform])(x)
    assert "stablehlo.custom_call" not in exported.mlir_module()


def bad_calls():
    x = np.zeros((2, 40), np.float32)
    w = from_trits(np.zeros((20, 40), np.int8), np.float32(1))
    return {
        "op.implementation_unknown": lambda: ternary_matmul(x, w, implementation="nativ"),
        "op.shape": lambda: ternary_matmul(x[:, :39], w),
        "op.dtype": lambda: ternary_matmul(x.astype(np.float16), w),
        "op.layout": lambda: ternary_matmul(x, replace(w, layout="t1.6")),
    }


@pytest.mark.parametrize("code", bad_calls())
def test_bad_calls_are_refused_by_name(code):
    with pytest.raises(UsageError) as caught:
        bad_calls()[code]()
    assert caught.value.code == code


def test_groups_that_are_no_whole_lines_are_refused():
    case = Case(1, 16, 160, "group", 32, layout="t1.16x20")
    x, _, _, w = make(np.random.default_rng(0), case)
    with pytest.raises(UsageError, match="a multiple of 80 inputs in layout t1.16x20") as caught:
        ternary_matmul(x, w)
    assert caught.value.code == "op.layout"


def test_the_gradient_does_not_depend_on_the_layout(rng, implementation):
    trits = rng.integers(-1, 2, (33, 100)).astype(np.int8)
    x = jnp.asarray(rng.standard_normal((3, 100), np.float32))

    def gradients(layout):
        w = from_codes(trits, np.float32(0.3), layout=layout)

        def loss(x, scale):
            y = ternary_matmul(x, replace(w, scale=scale), implementation=implementation)
            return (y**2).sum()

        return jax.grad(loss, (0, 1))(x, jnp.float32(0.3))

    plain, dense = map(gradients, LAYOUTS)
    for one, other in zip(plain, dense, strict=True):
        np.testing.assert_array_equal(one, other)
