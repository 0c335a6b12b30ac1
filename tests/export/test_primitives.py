"""Every primitive that is exported, in the smallest function that has it, by ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitnet_jax.export.table import TABLE
from tests.export.running import agrees

pytestmark = pytest.mark.heavy

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
P = jnp.abs(X) + 0.1
UNIT = jnp.tanh(X)
I = jnp.asarray(RNG.integers(-9, 10, (3, 4)), jnp.int32)
J = jnp.asarray(RNG.integers(1, 5, (3, 4)), jnp.int32)
B = X > 0
I8 = jnp.asarray(RNG.integers(-128, 128, (3, 4)), jnp.int8)
U8 = jnp.asarray(RNG.integers(0, 256, (3, 4)), jnp.uint8)
IMAGE = jnp.asarray(RNG.normal(size=(2, 3, 8, 8)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(6, 3, 3, 3)), jnp.float32)
IDS = jnp.asarray([[0, 2], [1, 9], [-1, 0]], jnp.int32)


def nested(x):
    return jax.checkpoint(jax.jit(lambda x: jax.nn.gelu(x) + jax.nn.silu(x)))(x)


@jax.custom_vjp
def custom(x):
    return x * 2


custom.defvjp(lambda x: (x * 2, None), lambda _, g: (g,))


def while_loop(x, n):
    return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * 1.5), (0, x))


def scanned(x):
    return lax.scan(lambda c, r: (c + r, c * r), x[0], x)


def scanned_backwards(x):
    return lax.scan(lambda c, r: (c + r, c - r), x[0], x, reverse=True)


def switched(x, i):
    return lax.switch(i, [lambda x: x + 1, lambda x: x * 2, jnp.sin], x)


def conv(strides=(1, 1), padding="SAME", groups=1, dims=("NCHW", "OIHW", "NCHW"), **more):
    def run(x, k):
        return lax.conv_general_dilated(
            x, k, strides, padding, dimension_numbers=dims, feature_group_count=groups, **more
        )

    return run


# name -> (function, arguments)
CASES = {
    "arithmetic": (lambda x, y: (x + y, x - y, x * y, x / y, -x, abs(x)), X, Y),
    "of_integers": (lambda x, y: (x + y, x - y, x * y, lax.div(x, y), lax.rem(x, y)), I, J),
    "of_bytes": (lambda x, y: (x + y, x * y, x - y, x // 3), I8, I8[::-1]),
    "of_unsigned_bytes": (lambda x, y: (x + y, x * y), U8, U8[::-1]),
    "of_bfloat16": (lambda x: (x.astype(jnp.bfloat16) * 3 + 1).astype(jnp.float32), X),
    "of_float16": (lambda x: (x.astype(jnp.float16) * 3 + 1).astype(jnp.float32), X),
    "floor_divide_and_mod": (lambda x, y: (x // y, x % y, jnp.fmod(x, y)), X, Y),
    "integer_floor_divide": (lambda x, y: (x // y, x % y), I, J),
    "extremes": (lambda x, y: (jnp.maximum(x, y), jnp.minimum(x, y), jnp.clip(x, -0.5, 0.5)), X, Y),
    "extremes_of_booleans": (lambda x, y: (lax.max(x, y), lax.min(x, y)), B, ~B),
    "powers": (lambda x, p: (x**2, x**3, x**7, x**-2, x**0, p**0.3, p**1.7), X, P),
    "roots": (lambda p, x: (jnp.sqrt(p), lax.rsqrt(p), jnp.cbrt(x), jnp.square(x)), P, X),
    "exponentials": (
        lambda x: (jnp.exp(x), jnp.exp2(x), jnp.expm1(x), jnp.expm1(x * 1e-4), jnp.tanh(x)),
        X,
    ),
    "logarithms": (lambda p: (jnp.log(p), jnp.log1p(p), jnp.log1p(p * 1e-6), jnp.log2(p)), P),
    "trigonometry": (lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x), jnp.arctan(x)), X),
    "inverse_trigonometry": (lambda u: (jnp.arcsin(u), jnp.arccos(u), jnp.arctanh(u)), UNIT),
    "hyperbolic": (
        lambda x, p: (jnp.sinh(x), jnp.cosh(x), jnp.arcsinh(x), jnp.arccosh(p + 1)),
        X,
        P,
    ),
    "atan2": (lambda y, x: jnp.arctan2(y, x), X.at[0, 0].set(0), Y.at[0, :2].set(0)),
    "errors": (lambda x: (lax.erf(x), lax.erfc(x)), X),
    "activations": (
        lambda x: (
            jax.nn.relu(x),
            jax.nn.gelu(x),
            jax.nn.gelu(x, approximate=False),
            jax.nn.silu(x),
            jax.nn.sigmoid(x),
            jax.nn.softplus(x),
            jax.nn.leaky_relu(x),
            jax.nn.elu(x),
        ),
        X,
    ),
    "softmax": (lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x), jax.nn.logsumexp(x, 1)), X),
    "rounding": (
        lambda x: (jnp.floor(x), jnp.ceil(x), jnp.rint(x), jnp.sign(x), lax.round(x * 4)),
        X,
    ),
    "barrier": (lambda x: lax.optimization_barrier((x, x + 1)), X),
    "custom_derivatives": (custom, X),
    "added_axes": (lambda x: lax.expand_dims(x, (0, 2)), X),
    "comparisons": (lambda x, y: (x < y, x <= y, x > y, x >= y, x == y, x != y), X, Y),
    "comparisons_of_integers": (lambda x, y: (x < y, x == y, x != y), I, J),
    "comparisons_of_booleans": (lambda x, y: (x == y, x != y, lax.lt(x, y)), B, B[::-1]),
    "logic": (lambda x, y: (x & y, x | y, x ^ y, ~x), B, B[::-1]),
    "bits": (lambda x, y: (x & y, x | y, x ^ y, ~x, x << 2, lax.shift_right_logical(x, y)), I, J),
    "choice": (
        lambda b, x, y: (jnp.where(b, x, y), jnp.where(b, 1, 0), lax.select_n(b, b, ~b)),
        B,
        X,
        Y,
    ),
    "finite": (
        lambda x: (jnp.isfinite(x), jnp.isnan(x), jnp.nan_to_num(x)),
        X.at[0, 0].set(jnp.nan).at[1, 1].set(jnp.inf),
    ),
    "casts": (
        lambda x, i, b: (
            x.astype(jnp.int32),
            (x * 200).astype(jnp.int8),
            i.astype(jnp.float32),
            b.astype(jnp.int32),
            i.astype(bool),
            i.astype(jnp.int8),
        ),
        X,
        I * 40,
        B,
    ),
    "precision": (lambda x: (lax.reduce_precision(x, 8, 7), lax.reduce_precision(x, 5, 10)), X),
    "shapes": (
        lambda x: (x.reshape(2, 6), x.T, x[None, :, None], x.ravel(), x[1:, ::2], x[::-1]),
        X,
    ),
    "broadcasts": (
        lambda x: (
            jnp.broadcast_to(x[0], (2, 3, 4)),
            x + x[:, :1],
            x * x[0] + 2,
            jnp.ones((2, 3)) * 2,
        ),
        X,
    ),
    "joined": (
        lambda x, y: (jnp.concatenate([x, y], 1), jnp.stack([x, y]), jnp.split(x, 2, 1)),
        X,
        Y,
    ),
    "padding": (
        lambda x: (
            jnp.pad(x, ((1, 2), (0, 1))),
            lax.pad(x, -1.0, ((1, 0, 2), (-1, 2, 1))),
            jnp.pad(x, 1, mode="edge"),
        ),
        X,
    ),
    "padding_of_bytes": (lambda x: lax.pad(x, np.int8(7), ((1, 0, 1), (0, 0, 0))), I8),
    "counting": (
        lambda x: (
            jnp.arange(5),
            jnp.arange(200.0),
            lax.broadcasted_iota(jnp.int32, (3, 4), 1) + x,
            jnp.eye(4),
            jnp.tri(3),
        ),
        I,
    ),
    "tiled": (lambda x: (jnp.tile(x, (2, 1)), jnp.repeat(x, 3, 1)), X),
    "lookup": (
        lambda x, i: (
            x[i],
            jnp.take(x, i, 0),
            jnp.take(x, i, 0, mode="clip"),
            jnp.take(x, i, 1, mode="clip"),
            x[:, i],
            x.at[i].get(mode="fill", fill_value=7.0),
        ),
        X,
        IDS,
    ),
    "lookup_of_integers": (lambda x, i: (x[i], jnp.take(x, i, 0)), I, IDS),
    "lookup_in_two_axes": (lambda x, i: (x[i[:, 0], i[:, 1]], x[i[:, 0], 1]), X, IDS % 3),
    "along_an_axis": (
        lambda x, i: (jnp.take_along_axis(x, i, 1), jnp.take_along_axis(x, i[:, :1], 1)),
        X,
        IDS % 4,
    ),
    "vmapped_lookup": (lambda x, i: jax.vmap(lambda r, i: r[i])(x, i), X, IDS % 4),
    "computed_slices": (
        lambda x, i: (
            lax.dynamic_slice(x, (i, 1), (2, 2)),
            lax.dynamic_slice_in_dim(x, i, 2, 1),
            jax.vmap(lambda r: lax.dynamic_slice(r, (i,), (2,)))(x),
        ),
        X,
        jnp.int32(2),
    ),
    "computed_updates": (
        lambda x, y, i: (
            lax.dynamic_update_slice(x, y[:2, :2], (i, 3)),
            lax.dynamic_update_slice_in_dim(x, y[:, :2], i, 1),
            lax.dynamic_update_slice(x, y, (i, i)),
        ),
        X,
        Y,
        jnp.int32(1),
    ),
    "scatters": (
        lambda x, i, y: (
            x.at[i[:, 0]].set(y),
            x.at[i[:, 0]].add(y),
            x.at[i[:, 0], i[:, 1]].add(1.0),
            x.at[:, 1].set(0),
            x.at[1].multiply(2),
            x.at[i[:, 0]].max(y),
            x.at[i[:, 0]].min(y),
        ),
        X,
        jnp.asarray([[0, 1], [2, 3], [9, 0]]),
        Y,
    ),
    "scatters_of_integers": (
        lambda x, i: (x.at[i[:, 0]].add(3), jnp.bincount(i.ravel(), length=5)),
        I,
        IDS % 3,
    ),
    "sums": (lambda x: (x.sum(), x.sum(0), x.mean(1), x.max(1), x.min(), x.prod(1), x.var(0)), X),
    "sums_of_integers": (lambda x, s: (x.sum(0), x.max(), s.sum(1), s.max(0)), I, I8),
    "any_and_all": (lambda b: (b.any(1), b.all(0), b.sum()), B),
    "places_of_extremes": (lambda x, i: (x.argmax(1), x.argmin(0), i.argmax(0)), X, I),
    "running_sums": (lambda x, i: (jnp.cumsum(x, 1), lax.cumsum(i, 0, reverse=True)), X, I),
    "sorting": (
        lambda x, i: (jnp.sort(x, 0), jnp.argsort(x, 1), lax.top_k(x, 2), jnp.sort(i)),
        X,
        I,
    ),
    "products": (
        lambda x, y: (x @ y.T, jnp.einsum("ij,kj->k", x, y), x[0] @ y[0], jnp.outer(x[0], y[0])),
        X,
        Y,
    ),
    "batched_products": (
        lambda a: (jnp.einsum("bcij,bckj->bikc", a, a), jnp.einsum("bcij,bcij->bij", a, a)),
        IMAGE,
    ),
    "products_of_bytes": (
        lambda a, b: (
            lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32),
            lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.int32),
        ),
        I8,
        I8[::-1],
    ),
    "products_of_mixed_bytes": (
        lambda a, b: (
            lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32),
            lax.dot_general(b, a, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32),
        ),
        I8,
        U8,
    ),
    "batched_products_of_bytes": (
        lambda a: lax.dot_general(
            a, a, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.int32
        ),
        I8.reshape(2, 3, 2),
    ),
    "products_of_integers": (lambda x, y: x @ y.T, I, J),
    "products_of_bfloat16": (
        lambda x, y: lax.dot_general(
            x.astype(jnp.bfloat16),
            y.astype(jnp.bfloat16),
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        ),
        X,
        Y,
    ),
    "convolution": (conv(), IMAGE, KERNEL),
    "strided_convolution": (conv((2, 1), ((1, 2), (0, 1)), rhs_dilation=(1, 2)), IMAGE, KERNEL),
    "grouped_convolution": (conv(groups=3), IMAGE, KERNEL[:, :1]),
    "convolution_of_nhwc": (
        conv(dims=("NHWC", "HWIO", "NHWC")),
        IMAGE.transpose(0, 2, 3, 1),
        KERNEL.transpose(2, 3, 1, 0),
    ),
    "transposed_convolution": (conv((1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2)), IMAGE, KERNEL),
    "cut_convolution": (conv((1, 1), ((-1, 0), (0, -2))), IMAGE, KERNEL),
    "convolution_of_a_line": (
        lambda x, k: lax.conv_general_dilated(x[:, :, 0], k[:, :, 0], (1,), "VALID"),
        IMAGE,
        KERNEL,
    ),
    "pooling": (
        lambda x: (
            lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"),
            lax.reduce_window(x, 0.0, lax.add, (1, 1, 3, 3), (1, 1, 2, 2), "SAME"),
            lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 1, 3), (1, 1, 1, 1), "SAME"),
        ),
        IMAGE,
    ),
    "calls": (nested, X),
    "derivatives": (
        lambda x: jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 2 * jax.nn.softmax(x)))(x),
        X,
    ),
    "scan": (scanned, X),
    "scan_backwards": (scanned_backwards, X),
    "while": (while_loop, X, jnp.int32(3)),
    "counted_loop": (lambda x: lax.fori_loop(0, 4, lambda i, c: c * 0.5 + i, x), X),
    "branches": (
        lambda x, i: (switched(x, i), switched(x, i - 5), switched(x, i + 5)),
        X,
        jnp.int32(1),
    ),
    "branch_on_a_boolean": (lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), X),
    "loops_in_branches": (
        lambda x: lax.cond(
            x[0, 0] > 9,
            lambda x: x,
            lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.where(i == 1, c, c + x), x),
            x,
        ),
        X,
    ),
}


# Rows that the decoders' tests and those of open sizes have, and names that another version of
# JAX has for what is tested.
ELSEWHERE = {
    "attention",
    "cache_write",
    "cached_attention",
    "dense_matmul",
    "dim_as_value",
    "gated_activation",
    "rms_norm",
    "rotary",
    "weight_note",
}
OTHER_VERSIONS = {"checkpoint", "closed_call", "pjit"}


@pytest.mark.parametrize("case", CASES)
def test_a_function_computes_what_jax_does(tmp_path, case):
    fn, *args = CASES[case]
    agrees(tmp_path, lambda params, *args: fn(*args), {}, *args)


def test_the_table_has_no_row_that_nothing_tests():
    seen = set()

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            seen.add(eqn.primitive.name)
            for value in eqn.params.values():
                for item in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(item, "eqns"):
                        walk(getattr(item, "jaxpr", item))

    for fn, *args in CASES.values():
        walk(jax.make_jaxpr(fn)(*args).jaxpr)
    assert set(TABLE) - seen == ELSEWHERE | OTHER_VERSIONS
