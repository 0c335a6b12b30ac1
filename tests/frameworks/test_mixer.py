"""An MLP-Mixer: products over tokens and over channels, and its twin by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

import bitnet_jax as bj
from tests.frameworks.laws import ALL, filled, holds, normal
from tests.passes.handwritten import qeinsum

# `make test` runs the page of this framework or model (tests/docs).
pytestmark = pytest.mark.heavy


IMAGES = normal(2, 8, 8, 3)
LINEARS = ["channels.down", "channels.up", "tokens.down", "tokens.up"]


def norm(x, gain):
    return gain * (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


def block(dot, x, p):
    """Along tokens [batch, patch, channel], then along channels."""
    h = jax.nn.gelu(dot("bpc,ph->bhc", norm(x, p["tokens"]["gain"]), p["tokens"]["up"]))
    x = x + dot("bhc,hp->bpc", h, p["tokens"]["down"])
    h = jax.nn.gelu(dot("bpc,ch->bph", norm(x, p["channels"]["gain"]), p["channels"]["up"]))
    return x + dot("bph,hc->bpc", h, p["channels"]["down"])


def mixer(dot, params, images):
    patches = images.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    x = dot("bpi,ic->bpc", patches.reshape(2, 4, 48), params["embed"])
    x, _ = jax.lax.scan(lambda x, p: (block(dot, x, p), None), x, params["blocks"])
    return dot("bc,ck->bk", x.mean(1), params["head"])


def shapes(**named):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in named.items()}


PARAMS = filled(
    {
        "embed": jax.ShapeDtypeStruct((48, 8), jnp.float32),
        "blocks": {
            "tokens": shapes(gain=(2, 8), up=(2, 4, 6), down=(2, 6, 4)),
            "channels": shapes(gain=(2, 8), up=(2, 8, 16), down=(2, 16, 8)),
        },
        "head": jax.ShapeDtypeStruct((8, 3), jnp.float32),
    }
)
FN, TWIN = (functools.partial(mixer, dot) for dot in (jnp.einsum, qeinsum))
KEPT = bj.Rule("**.gain", use="*", to="keep")


def test_the_mixer_equals_its_twin_with_a_scale_per_block():
    names = ["embed", "head", *(f"blocks.{name}" for name in LINEARS)]
    holds(FN, PARAMS, [KEPT, *ALL], IMAGES, ternary=names, twin=TWIN)
    packed = bj.pack(FN, PARAMS, [KEPT, *ALL], IMAGES).ternary()
    assert packed["blocks.tokens.up"].scale.shape == (2,)
    assert packed["embed"].scale.shape == ()


def test_a_scale_per_row_is_per_output_of_either_direction():
    def twin(params, images):
        return mixer(functools.partial(qeinsum, scale="row"), params, images)

    # in a scan an element's rows are its own: the twin sees one element at a time
    holds(FN, PARAMS, [KEPT, bj.Rule("**", scale="row")], IMAGES, twin=twin)


def test_the_embedding_and_the_head_may_stay_float():
    kept = [KEPT, *(bj.Rule(name, to="keep") for name in ("embed", "head"))]

    def twin(params, images):
        def dot(spec, x, w):
            return (qeinsum if spec in BLOCK else jnp.einsum)(spec, x, w)

        return mixer(dot, params, images)

    names = [f"blocks.{name}" for name in LINEARS]
    holds(FN, PARAMS, [*kept, *ALL], IMAGES, ternary=names, twin=twin)


BLOCK = ("bpc,ph->bhc", "bhc,hp->bpc", "bpc,ch->bph", "bph,hc->bpc")
