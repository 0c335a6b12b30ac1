"""A BERT-like encoder with a padding mask and a tied output, and its twin by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from tests.frameworks.laws import ALL, compiled, filled, holds
from tests.passes.handwritten import qeinsum

# `make test` runs the page of this framework or model (tests/docs).
pytestmark = pytest.mark.heavy


TOKENS = jnp.asarray([[3, 7, 1, 4, 0, 0], [2, 2, 9, 5, 6, 8]])
SEGMENTS = jnp.asarray([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
MASK = TOKENS > 0


def norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return p["gain"] * (x - mean) * jax.lax.rsqrt(var + 1e-6) + p["shift"]


def attend(dot, x, mask, p):
    """Two heads of 4, their axes apart in the weights: [8, 2, 4] in, [2, 4, 8] out."""
    q, k, v = (dot("btd,dhe->bthe", x, p[name]) for name in ("query", "key", "value"))
    scores = jnp.einsum("bthe,bshe->bhts", q, k) / 2
    weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -1e9))
    return dot("bthe,hed->btd", jnp.einsum("bhts,bshe->bthe", weights, v), p["out"])


def layer(dot, x, mask, p):
    x = norm(x + attend(dot, x, mask, p), p["norm_0"])
    h = jax.nn.gelu(dot("btd,df->btf", x, p["up"]) + p["up_bias"])
    return norm(x + dot("btf,fd->btd", h, p["down"]), p["norm_1"])


def encoder(dot, params, tokens, segments, mask):
    """Logits of each token [batch, time, 12], and of the pair [batch, 2]."""
    x = params["words"][tokens] + params["segments"][segments] + params["positions"][:6]
    x = norm(x, params["norm"])
    for p in params["layers"]:
        x = jax.checkpoint(functools.partial(layer, dot))(x, mask, p)
    pooled = jnp.tanh(dot("bd,de->be", x[:, 0], params["pooler"]))
    return dot("btd,vd->btv", x, params["words"]), dot("bd,dc->bc", pooled, params["pair"])


def shapes(**named):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in named.items()}


LAYER = {
    **shapes(query=(8, 2, 4), key=(8, 2, 4), value=(8, 2, 4), out=(2, 4, 8)),
    **shapes(up=(8, 16), up_bias=(16,), down=(16, 8)),
    **{name: shapes(gain=(8,), shift=(8,)) for name in ("norm_0", "norm_1")},
}
PARAMS = filled(
    {
        **shapes(words=(12, 8), segments=(2, 8), positions=(9, 8), pooler=(8, 8), pair=(8, 2)),
        "norm": shapes(gain=(8,), shift=(8,)),
        "layers": [LAYER],
    }
)
INSIDE = {f"layers.0.{name}" for name in ("query", "key", "value", "out", "up", "down")}
FN, TWIN = (functools.partial(encoder, dot) for dot in (jnp.einsum, qeinsum))
ARGS = (TOKENS, SEGMENTS, MASK)


def test_the_encoder_equals_its_twin_with_its_tables_looked_up_in_float():
    names = {*INSIDE, "words", "pooler", "pair"}
    holds(FN, PARAMS, ALL, *ARGS, ternary=names, twin=TWIN)


def test_a_tied_table_may_be_looked_up_ternary_too():
    """One rule for both uses: the lookup gives rows of what the output multiplies by."""
    rules = [bj.Rule("words", use="*"), *ALL]
    packed = bj.pack(FN, PARAMS, rules, *ARGS)
    assert isinstance(packed.leaves["words"], bj.QuantTensor)
    holds(FN, PARAMS, rules, *ARGS)


def test_only_the_layers_by_a_path():
    holds(FN, PARAMS, [bj.Rule("layers.**")], *ARGS, ternary=INSIDE)


def test_padding_changes_nothing_that_is_not_padding():
    """The mask is the user's arithmetic; activations are rounded token by token."""
    qat = compiled(bj.ternarize(FN, ALL))
    changed = jnp.where(MASK, TOKENS, 11)
    (a, pair_a), (b, pair_b) = (qat(PARAMS, t, SEGMENTS, MASK) for t in (TOKENS, changed))
    np.testing.assert_array_equal(np.asarray(a)[MASK], np.asarray(b)[MASK])
    np.testing.assert_array_equal(pair_a, pair_b)
