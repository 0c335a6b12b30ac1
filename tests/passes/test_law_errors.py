"""What cannot be quantized is an error: it names the parameter, the equation and the user's line.

Each function marks the line that the error must name with `# HERE`.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData, BitnetError, UsageError
from tests.passes.handwritten import qeinsum
from tests.passes.laws.case import IN, OUT, normal, tokens
from tests.passes.laws.check import arrays, assert_same

CLOSED, CLOSED_NUMPY = normal(IN, OUT, seed=8), normal(IN, OUT, seed=9)
CLOSED_STACK = normal(2, IN, IN, seed=10)


def params_of(**shapes):
    return arrays({name: normal(*shape, seed=len(name)) for name, shape in shapes.items()})


def here(fn):
    """The line that `fn` marks."""
    lines, start = inspect.getsourcelines(fn)
    (marked,) = [start + k for k, line in enumerate(lines) if "# HERE" in line]
    return f"{Path(inspect.getfile(fn)).name}:{marked} "


def error_of(fn, params, rules=None, inputs=None, wrap=lambda f: f):
    """What transforming and running `fn` raises."""
    rules = [bj.Rule("w*")] if rules is None else rules
    inputs = (jnp.asarray(tokens()),) if inputs is None else inputs
    with pytest.raises(BitnetError) as caught:
        wrap(bj.ternarize(fn, rules))(params, *inputs)
    return caught.value


# --------------------------------------------------------------------- uses of a weight


def masked(p, x):
    return x @ (p["w"] * (p["w"] > 0))  # HERE


def masked_by_parameter(p, x):
    return x @ (p["w"] * p["mask"])  # HERE


def low_rank(p, x):
    return x @ (p["w"] + p["a"] @ p["b"])  # HERE


def normalized(p, x):
    w = p["w"] / jnp.linalg.norm(p["w"], axis=0)  # HERE
    return x @ w


def scaled(p, x):
    return x @ (0.5 * p["w"])  # HERE


def sorted_weight(p, x):
    return x @ jnp.sort(p["w"], axis=0)  # HERE


def fourier(p, x):
    return jnp.abs(x @ jnp.fft.fft(p["w"]))  # HERE


def cumulative(p, x):
    return x @ jnp.cumsum(p["w"], axis=0)  # HERE


def returned(p, x):
    return x @ p["w"], p["w"]


def joined_along_inputs(p, x):
    w = jnp.concatenate([p["w"], p["w2"]], 0)  # HERE
    return jnp.concatenate([x, x], 1) @ w


def joined_and_changed(p, x):
    w = jnp.concatenate([p["w"], p["w2"]], 1)  # HERE
    return x @ jnp.tanh(w)


def product_of_weights(p, x):
    return x @ (p["w1"] @ p["w2"])  # HERE


def masked_in_scan(p, x):
    def body(x, w):
        return x @ jnp.tanh(w), None  # HERE

    return lax.scan(body, x, p["w"])[0]


def masked_in_branch(p, x):
    def yes(w):
        return x @ jnp.exp(w)  # HERE

    return lax.cond(x[0, 0] > 0, yes, lambda w: x @ w, p["w"])


def masked_in_jit(p, x):
    @jax.jit
    def inner(w):
        return x @ jnp.sin(w)  # HERE

    return inner(p["w"])


def masked_in_remat(p, x):
    return jax.checkpoint(lambda w: x @ jnp.cos(w))(p["w"])  # HERE


def two_different_uses(p, x):
    y = x @ p["w"]
    return y + p["w"].sum()  # HERE


LINEAR = {"w": (IN, OUT)}
# function, shapes, the parameter and the primitive that the text names
USES = {
    "a mask computed from the weight": (masked, LINEAR, "w", ("mul", "gt")),
    "a mask that is a parameter": (masked_by_parameter, {**LINEAR, "mask": (IN, OUT)}, "w", "mul"),
    "a low-rank adapter": (low_rank, {**LINEAR, "a": (IN, 2), "b": (2, OUT)}, "w", "add"),
    "a weight normalised first": (normalized, LINEAR, "w", None),
    "a weight times a number": (scaled, LINEAR, "w", "mul"),
    "sort": (sorted_weight, LINEAR, "w", "sort"),
    "fft": (fourier, LINEAR, "w", None),
    "cumsum": (cumulative, LINEAR, "w", "cumsum"),
    "joined along the inputs": (
        joined_along_inputs,
        {**LINEAR, "w2": (IN, OUT)},
        "w",
        "concatenate",
    ),
    "joined and changed": (joined_and_changed, {**LINEAR, "w2": (IN, OUT)}, "w", "concatenate"),
    "a product of two weights": (product_of_weights, {"w1": (IN, 8), "w2": (8, OUT)}, "w", None),
    "in scan": (masked_in_scan, {"w": (2, IN, IN)}, "w", "tanh"),
    "in a branch": (masked_in_branch, LINEAR, "w", "exp"),
    "in an inner jit": (masked_in_jit, LINEAR, "w", "sin"),
    "in remat": (masked_in_remat, LINEAR, "w", "cos"),
    "a product and a sum": (two_different_uses, LINEAR, "w", "reduce_sum"),
}


@pytest.mark.parametrize("case", USES)
@pytest.mark.parametrize("when", ["qat", "jit", "pack"])
def test_a_use_that_is_no_product(case, when):
    fn, shapes, name, primitive = USES[case]
    params, x = params_of(**shapes), jnp.asarray(tokens())
    if when == "pack":
        with pytest.raises(BitnetError) as caught:
            bj.pack(fn, params, [bj.Rule("w*")], x)
        error = caught.value
    else:
        error = error_of(fn, params, wrap=jax.jit if when == "jit" else lambda f: f)
    assert isinstance(error, UsageError) and error.code == "transform.unfollowable"
    assert f"`{name}" in error.message
    assert here(fn) in error.message + " "
    if primitive is not None:
        names = (primitive,) if isinstance(primitive, str) else primitive
        assert any(f"`{one}`" in error.message for one in names)
    assert "keep" in error.hint


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", USES)
def test_the_hint_holds(case):
    """With the rule that the hint asks for, the function runs as it was."""
    fn, shapes, _, _ = USES[case]
    params = {**params_of(**shapes), "v": jnp.asarray(normal(IN, 8))}
    x = jnp.asarray(tokens())

    def and_another(p, x):
        return fn(p, x), x @ p["v"]

    rules = [bj.Rule("w*", use="*", to="keep"), bj.Rule("v")]
    got = jax.jit(bj.ternarize(and_another, rules))(params, x)
    np.testing.assert_allclose(got[0], jax.jit(fn)(params, x), rtol=1e-5, atol=1e-5)
    assert_same(got[1], qeinsum("bi,io->bo", x, params["v"]))


def test_a_weight_returned_as_the_result():
    error = error_of(returned, params_of(**LINEAR))
    assert error.code == "transform.unfollowable"
    assert "`w`" in error.message and "result" in error.message


# ------------------------------------------------------------------ weights closed over


def closed_over(p, x):
    return x @ p["w"] + x @ jnp.asarray(CLOSED)  # HERE


def closed_over_numpy(p, x):
    return x @ p["w"] + x @ CLOSED_NUMPY  # HERE


def closed_over_in_jit(p, x):
    @jax.jit
    def inner(x):
        return x @ CLOSED_NUMPY  # HERE

    return x @ p["w"] + inner(x)


def closed_over_in_scan(p, x):
    def body(total, _):
        return total + x @ CLOSED_NUMPY, None  # HERE

    return lax.scan(body, x @ p["w"], None, length=2)[0]


def closed_over_stack(p, x):
    return lax.scan(lambda x, w: (x @ w, None), x, CLOSED_STACK)[0] @ p["w"]  # HERE


ALL_CLOSED = {
    fn.__name__: fn
    for fn in (
        closed_over,
        closed_over_numpy,
        closed_over_in_jit,
        closed_over_in_scan,
        closed_over_stack,
    )
}


@pytest.mark.parametrize("case", ALL_CLOSED)
def test_a_weight_closed_over(case):
    fn = ALL_CLOSED[case]
    error = error_of(fn, params_of(**LINEAR))
    assert isinstance(error, UsageError) and error.code == "transform.closed_over"
    assert here(fn) in error.message + " "
    assert "dot_general" in error.message
    assert "params" in error.hint or "parameter" in error.hint


def test_closing_over_what_is_no_weight_is_no_error():
    """Tables, masks and vectors are constants that nothing multiplies as a matrix."""
    position, causal = normal(4, IN), np.tril(np.ones((4, 4), np.float32))

    def fn(p, x):
        scores = jnp.where(causal > 0, x @ x.T, 0.0)
        return (x + position) @ p["w"], scores

    params, x = params_of(**LINEAR), jnp.asarray(tokens())
    got, _ = jax.jit(bj.ternarize(fn, [bj.Rule("w")]))(params, x)
    assert_same(got, qeinsum("bi,io->bo", x + position, params["w"]))


def test_a_table_of_indices_closed_over_is_no_weight():
    order = np.arange(IN)[::-1].copy()

    def fn(p, x):
        return x[:, order] @ p["w"]

    params, x = params_of(**LINEAR), jnp.asarray(tokens())
    got = jax.jit(bj.ternarize(fn, [bj.Rule("w")]))(params, x)
    assert_same(got, qeinsum("bi,io->bo", x[:, order], params["w"]))


# --------------------------------------------------------------- rules and their parameters


def plain(p, x):
    return x @ p["w"]


def with_bias(p, x):
    return x @ p["w"] + p["bias"]  # HERE


def test_a_bias_matched_by_an_explicit_path():
    params = {**params_of(**LINEAR), "bias": jnp.ones(OUT)}
    error = error_of(with_bias, params, [bj.Rule("w"), bj.Rule("bias")])
    assert isinstance(error, UsageError)
    assert "`bias`" in str(error)
    assert "add" in str(error) and "multipl" in str(error)


def test_a_bias_matched_by_a_wildcard_stays_as_it_is():
    params = {**params_of(**LINEAR), "bias": jnp.asarray(normal(OUT))}
    x = jnp.asarray(tokens())
    got = jax.jit(bj.ternarize(with_bias, [bj.Rule("**")]))(params, x)
    assert_same(got, qeinsum("bi,io->bo", x, params["w"]) + params["bias"])


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.bool_])
def test_an_integer_weight_matched_by_a_rule(dtype):
    def fn(p, x):
        return x @ p["w"].astype(x.dtype) + x @ p["w_float"]

    params = {"w": np.ones((IN, OUT), dtype), "w_float": normal(IN, OUT)}
    error = error_of(fn, params, [bj.Rule("w"), bj.Rule("w_float")])
    assert isinstance(error, BitnetError)
    assert "`w`" in error.message and np.dtype(dtype).name in error.message


@pytest.mark.parametrize("rule, name", [("wiegth", "weight"), ("layer.weight", "weight")])
def test_a_rule_with_a_typo_names_the_nearest(rule, name):
    def fn(p, x):
        return x @ p["weight"]

    error = error_of(fn, params_of(weight=(IN, OUT)), [bj.Rule(rule)])
    assert error.code == "quant.rule_unused"
    assert f"`{rule}`" in error.message and f"`{name}`" in error.hint


def test_a_rule_that_an_earlier_one_leaves_nothing_for():
    error = error_of(plain, params_of(**LINEAR), [bj.Rule("*"), bj.Rule("w", scale="row")])
    assert error.code == "quant.rule_unused"
    assert "rule 2" in error.message


def test_a_rule_for_a_parameter_that_the_function_never_uses():
    params = params_of(w=(IN, OUT), w_idle=(IN, OUT))
    error = error_of(plain, params, [bj.Rule("w"), bj.Rule("w_idle")])
    assert isinstance(error, UsageError)
    assert "`w_idle`" in error.message
    assert any(word in str(error) for word in ("never uses", "does not use", "is not used"))


@pytest.mark.parametrize(
    "field, value",
    [
        ("use", "dots"),
        ("to", "ternry"),
        ("scale", "tensors"),
        ("scale", "group-0"),
        ("scale", "group-10"),
        ("scale_dtype", "float64"),
        ("stack", (-1,)),
        ("stack", (0, 0)),
    ],
)
def test_a_rule_with_an_unknown_value(field, value):
    with pytest.raises(UsageError) as caught:
        bj.Rule("w", **{field: value})
    assert caught.value.code == f"rule.{field}"
    assert "`w`" in caught.value.message


def test_a_group_size_that_does_not_divide_the_inputs():
    def fn(p, x):
        return x @ p["w"]  # HERE

    error = error_of(
        fn,
        params_of(w=(40, OUT)),
        [bj.Rule("w", scale="group-16")],
        inputs=(jnp.asarray(tokens(4, 40)),),
    )
    assert error.code == "quant.group_size"
    assert "`w`" in error.message and "40" in error.message and here(fn) in error.message + " "


def contracts_the_stack(p, x):
    return jnp.einsum("bei,eio->bo", x, p["w"])  # HERE


def contracts_an_axis_of_rows(p, x):
    return (x @ p["w"]) @ p["w"].T  # HERE


@pytest.mark.parametrize(
    "fn, shape, x_shape, rule",
    [
        (contracts_the_stack, (3, IN, OUT), (4, 3, IN), bj.Rule("w", stack=(0,))),
        (contracts_an_axis_of_rows, (IN, OUT), (4, IN), bj.Rule("w", scale="row")),
        (contracts_an_axis_of_rows, (IN, 48), (4, IN), bj.Rule("w", scale="group-16")),
    ],
    ids=["stack", "row", "group"],
)
def test_a_scale_on_a_contracted_axis(fn, shape, x_shape, rule):
    inputs = (jnp.asarray(tokens(*x_shape)),)
    error = error_of(fn, params_of(w=shape), [rule], inputs)
    assert isinstance(error, UsageError) and error.code == "quant.scale_contracted"
    assert "`w`" in error.message and here(fn) in error.message + " "


def test_a_stack_axis_that_the_parameter_has_not():
    error = error_of(plain, params_of(**LINEAR), [bj.Rule("w", stack=(2,))])
    assert error.code == "rule.stack" and "`w`" in error.message


# ------------------------------------------------- functions and arguments that do not fit


def test_a_leaf_that_is_no_array():
    error = error_of(plain, {**params_of(**LINEAR), "kind": "dense"}, [bj.Rule("w")])
    assert error.code == "program.leaf" and "`kind`" in error.message and "str" in error.message


def test_an_input_that_is_no_array():
    error = error_of(lambda p, x, kind: x @ p["w"], params_of(**LINEAR), inputs=(1.0, "dense"))
    assert error.code == "program.leaf" and "str" in error.message


def python_branch(p, x):
    y = x @ p["w"]
    if y[0, 0] > 0:  # HERE
        return y
    return -y


def python_float(p, x):
    return x @ p["w"] * float(x[0, 0])  # HERE


def python_numpy(p, x):
    return np.asarray(x) @ p["w"]  # HERE


def python_range(p, x, n):
    for _ in range(n):  # HERE
        x = x @ p["w"]
    return x


def data_dependent_shape(p, x):
    return x[x[:, 0] > 0] @ p["w"]  # HERE


@pytest.mark.parametrize(
    "fn", [python_branch, python_float, python_numpy, data_dependent_shape, python_range]
)
def test_a_function_that_cannot_be_traced(fn):
    inputs = (jnp.asarray(tokens()), jnp.int32(2))[: 2 if fn is python_range else 1]
    error = error_of(fn, params_of(**LINEAR), inputs=inputs)
    assert isinstance(error, UsageError)
    assert here(fn) in error.message + " "
    assert error.hint


def test_an_error_of_the_functions_own_passes_as_it_is():
    def fn(p, x):
        raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer"):
        bj.ternarize(fn, [bj.Rule("w")])(params_of(**LINEAR), jnp.asarray(tokens()))


def test_shapes_that_do_not_fit_are_jaxs_own_error():
    with pytest.raises(TypeError, match="dot_general"):
        bj.ternarize(plain, [bj.Rule("w")])(params_of(w=(IN + 1, OUT)), jnp.asarray(tokens()))


@pytest.mark.parametrize("lam", [3, -0.5, np.float32(1.5), float("nan"), float("inf")])
def test_lambda_outside_its_range(lam):
    with pytest.raises(UsageError, match="λ goes from 0") as caught:
        bj.ternarize(plain, [bj.Rule("w")])(params_of(**LINEAR), jnp.asarray(tokens()), lam=lam)
    assert caught.value.code == "transform.lambda"


def test_lambda_of_a_wrong_shape():
    with pytest.raises(UsageError):
        bj.ternarize(plain, [bj.Rule("w")])(
            params_of(**LINEAR), jnp.asarray(tokens()), lam=jnp.ones(3)
        )


def test_an_unknown_mode():
    with pytest.raises(UsageError, match="qat") as caught:
        bj.ternarize(plain, [bj.Rule("w")], mode="qta")
    assert caught.value.code == "transform.mode"


# ------------------------------------------------------------------------------- packing


def packed_linear():
    params, x = params_of(**LINEAR), jnp.asarray(tokens())
    return params, x, bj.pack(plain, params, [bj.Rule("w")], x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value):
    w = normal(IN, OUT)
    w[3, 5] = value
    with pytest.raises(BadData, match="`w` holds NaN or infinity") as caught:
        bj.pack(plain, {"w": jnp.asarray(w)}, [bj.Rule("w")], jnp.asarray(tokens()))
    assert caught.value.code == "tensor.not_finite"


def test_packed_parameters_of_another_function():
    _, x, packed = packed_linear()

    def other(p, x):
        return x[:, :OUT] @ p["w"].T  # HERE

    with pytest.raises(UsageError, match="`w`") as caught:
        bj.ternarize(other, [bj.Rule("w")], mode="packed")(packed, x)
    assert caught.value.code == "transform.packed_elsewhere"
    assert here(other) in caught.value.message + " "


def test_packed_parameters_of_a_function_with_other_names():
    _, x, packed = packed_linear()
    renamed = bj.Packed.of({"kernel": packed.leaves["w"]})
    with pytest.raises(KeyError):  # the function's own, on the tree that it is given
        bj.ternarize(plain, [bj.Rule("kernel")], mode="packed")(renamed, x)


def test_packed_parameters_used_otherwise():
    _, x, packed = packed_linear()

    def other(p, x):
        return x @ p["w"] + p["w"].sum()  # HERE

    with pytest.raises(UsageError, match="`w`") as caught:
        bj.ternarize(other, [bj.Rule("w")], mode="packed")(packed, x)
    assert here(other) in caught.value.message + " "


@pytest.mark.parametrize("layout", ["t9", ""])
def test_packed_parameters_of_another_layout(layout):
    _, x, packed = packed_linear()
    old = dataclasses.replace(packed.leaves["w"], layout=layout)
    stale = dataclasses.replace(packed, leaves={"w": old})
    with pytest.raises(BitnetError) as caught:
        bj.ternarize(plain, [bj.Rule("w")], mode="packed")(stale, x)
    assert "`w`" in caught.value.message and f"{layout}" in caught.value.message
    assert packed.leaves["w"].layout in str(caught.value)


def test_parameters_given_to_the_wrong_mode():
    params, x, packed = packed_linear()
    with pytest.raises(UsageError, match="pack") as caught:
        bj.ternarize(plain, [bj.Rule("w")], mode="packed")(params, x)
    assert caught.value.code == "transform.not_packed"
    with pytest.raises(UsageError, match="packed"):
        bj.ternarize(plain, [bj.Rule("w")])(packed, x)


def test_packing_what_is_packed():
    _, x, packed = packed_linear()
    with pytest.raises(UsageError, match="packed"):
        bj.pack(plain, packed, [bj.Rule("w")], x)
    with pytest.raises(UsageError, match="packed"):
        bj.pack(plain, packed.leaves, [bj.Rule("w")], x)


def test_packing_inside_jit():
    x = jnp.asarray(tokens())
    with pytest.raises(UsageError, match="not inside jit"):
        jax.jit(lambda p: bj.pack(plain, p, [bj.Rule("w")], x).leaves)(params_of(**LINEAR))


# ------------------------------------------------------------------------ axes of size 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "w_shape, x_shape",
    [((0, OUT), (4, 0)), ((IN, 0), (4, IN)), ((IN, OUT), (0, IN)), ((0, 0), (4, 0))],
    ids=["no inputs", "no outputs", "no tokens", "neither"],
)
def test_axes_of_size_zero_give_zeros_of_the_right_shape(w_shape, x_shape):
    """As the function itself: a sum of nothing is 0."""
    params, x = {"w": jnp.ones(w_shape)}, jnp.ones(x_shape)
    want = jnp.zeros((x_shape[0], w_shape[1]))
    assert_same(jax.jit(bj.ternarize(plain, [bj.Rule("w")]))(params, x), want)
    packed = bj.pack(plain, params, [bj.Rule("w")], x)
    assert_same(jax.jit(bj.ternarize(plain, [bj.Rule("w")], mode="packed"))(packed, x), want)
    gradient = jax.grad(lambda p: bj.ternarize(plain, [bj.Rule("w")])(p, x).sum())(params)
    assert_same(gradient, {"w": jnp.zeros(w_shape)})


@pytest.mark.parametrize("scale", ["row", "group-16"])
def test_axes_of_size_zero_with_other_scales(scale):
    rules = [bj.Rule("w", scale=scale)]
    for w_shape, x_shape in (((IN, 0), (4, IN)), ((IN, OUT), (0, IN))):
        params, x = {"w": jnp.ones(w_shape)}, jnp.ones(x_shape)
        want = jnp.zeros((x_shape[0], w_shape[1]))
        assert_same(jax.jit(bj.ternarize(plain, rules))(params, x), want)


def test_an_empty_stack():
    """A model of no layers: scan runs no element."""

    def fn(p, x):
        return lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0]

    params, x = {"w": jnp.ones((0, IN, IN))}, jnp.asarray(tokens())
    assert_same(jax.jit(bj.ternarize(fn, [bj.Rule("w")]))(params, x), x)
