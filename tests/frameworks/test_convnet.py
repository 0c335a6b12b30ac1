"""A ResNet-like convnet: convolutions stay float, and it is said unless a rule says so first."""

import functools
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bitnet_jax as bj
from tests.frameworks.laws import filled, holds, normal, refused
from tests.passes.handwritten import qeinsum

# `make test` runs the page of this framework or model (tests/docs).
pytestmark = pytest.mark.heavy

IMAGES = normal(2, 8, 8, 3)
EVERYTHING = [bj.Rule("**")]
KEPT = [bj.Rule("**.conv*", use="*", to="keep"), *EVERYTHING]


def conv(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def norm(x, p):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return p["gain"] * (x - mean) * lax.rsqrt(var + 1e-5) + p["shift"]


def squeeze_excite(dot, x, p):
    """The block's linears: a gate for each channel."""
    hidden = jax.nn.relu(dot("bc,cr->br", x.mean((1, 2)), p["reduce"]))
    return x * jax.nn.sigmoid(dot("br,rc->bc", hidden, p["expand"]))[:, None, None]


def block(dot, x, p):
    h = jax.nn.relu(norm(conv(x, p["conv_0"], 2), p["norm_0"]))
    h = squeeze_excite(dot, norm(conv(h, p["conv_1"]), p["norm_1"]), p)
    return jax.nn.relu(h + conv(x, p["conv_skip"], 2))


def resnet(dot, params, images):
    x = conv(images, params["stem"]["conv"])
    for p in params["blocks"]:
        x = block(dot, x, p)
    return dot("bc,ck->bk", x.mean((1, 2)), params["head"]) + params["bias"]


def shapes(**named):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in named.items()}


def block_shapes(inputs, outputs):
    return {
        **shapes(conv_0=(3, 3, inputs, outputs), conv_1=(3, 3, outputs, outputs)),
        **shapes(conv_skip=(1, 1, inputs, outputs)),
        **shapes(reduce=(outputs, 4), expand=(4, outputs)),
        **{name: shapes(gain=(outputs,), shift=(outputs,)) for name in ("norm_0", "norm_1")},
    }


PARAMS = filled(
    {
        "stem": shapes(conv=(3, 3, 3, 4)),
        "blocks": [block_shapes(4, 8)],
        **shapes(head=(8, 3), bias=(3,)),
    }
)
FN, TWIN = (functools.partial(resnet, dot) for dot in (jnp.einsum, qeinsum))
LINEARS = ["blocks.0.expand", "blocks.0.reduce", "head"]


def test_a_wildcard_keeps_convolutions_and_names_each_once():
    with pytest.warns(bj.KeptFloatWarning) as told:
        packed = bj.pack(FN, PARAMS, EVERYTHING, IMAGES)
    assert sorted(packed.ternary()) == LINEARS
    (warning,) = told
    said = str(warning.message)
    for name in ("stem.conv", "blocks.0.conv_0", "blocks.0.conv_1", "blocks.0.conv_skip"):
        assert said.count(f"`{name}`") == 1
    assert "test_convnet.py" in said and "to='keep'" in said
    assert "head" not in said and "norm" not in said


def test_with_a_keep_rule_it_is_silent_and_equals_its_twin():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holds(FN, PARAMS, KEPT, IMAGES, ternary=LINEARS, twin=TWIN)


def test_the_warning_is_trainings_too():
    with pytest.warns(bj.KeptFloatWarning, match="convolutions stay float"):
        jax.eval_shape(bj.ternarize(FN, EVERYTHING), PARAMS, IMAGES)


@pytest.mark.parametrize("path", ["blocks.0.conv_0", "**.conv_0", "stem.*"])
def test_a_rule_that_takes_only_convolutions_is_refused_by_name(path):
    exact = path == "blocks.0.conv_0"
    code = "transform.unfollowable" if exact else "quant.rule_unused"
    said = refused(FN, PARAMS, [bj.Rule(path)], IMAGES, code=code)
    assert "blocks.0.conv_0" in said or "stem.conv" in said
    assert "convolution's" in said and "stay float" in said and "test_convnet.py" in said


def test_a_network_of_convolutions_alone_leaves_a_rule_nothing_to_take():
    def fn(params, images):
        return conv(images, params["kernel"]) + params["bias"]

    params = {"kernel": normal(3, 3, 3, 4), "bias": normal(4)}
    said = refused(fn, params, EVERYTHING, IMAGES, code="quant.rule_unused")
    assert "`kernel` is a convolution's" in said


def test_a_pointwise_convolution_written_as_a_product_is_one():
    def model(dot, params, images):
        return dot("bhwi,io->bhwo", jax.nn.relu(conv(images, params["conv"])), params["pointwise"])

    fn, twin = (functools.partial(model, dot) for dot in (jnp.einsum, qeinsum))
    params = {"conv": normal(3, 3, 3, 4), "pointwise": normal(4, 8)}
    rules = [bj.Rule("conv", to="keep"), *EVERYTHING]
    holds(fn, params, rules, IMAGES, ternary=["pointwise"], twin=twin)
