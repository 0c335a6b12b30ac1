"""Products that are no `dot_general` with the parameter: refused with the line, never silent.

And what looks alike and is none: embeddings, gains, biases, pooling, a matrix factorization.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import UsageError
from tests.passes.laws.case import normal
from tests.passes.test_law_errors import here

RULES = [bj.Rule("**")]
PARAMS = {
    name: jnp.asarray(normal(*shape, seed=seed))
    for seed, (name, shape) in enumerate(
        {"w": (16, 8), "v": (8, 8), "e": (10, 16), "gain": (4, 4)}.items()
    )
}
X = jnp.asarray(normal(3, 16, seed=9))
PERM, TOKENS = jnp.arange(16)[::-1], jnp.array([1, 2, 3])


def rows_by_index(p, x):
    return x[:, PERM] @ p["w"][PERM]  # HERE


def rows_scaled(p, x):
    rows = jnp.where(x[0, 0] > 0, 2.0, 3.0) * p["w"][PERM]
    return x @ -rows  # HERE


def candidates(p, x):
    logits = x @ p["e"].T
    return logits, x @ p["e"][TOKENS].T  # HERE


def rows_joined(p, x):
    return x @ jnp.concatenate([p["w"][PERM], p["w"][PERM]], 1)  # HERE


def rows_in_scan(p, x):
    rows = p["w"][PERM]

    def body(total, _):
        return total + x @ rows, None  # HERE

    return jax.lax.scan(body, jnp.zeros((3, 8)), None, length=2)[0]


def written_out(p, x):
    return (x[:, :, None] * p["w"]).sum(1)  # HERE


def written_out_for_one(p, x):
    return (x[:1, :, None] * p["w"][None]).mean(1)  # HERE


def written_out_transposed(p, x):
    return (p["w"].T * x[:, None, :]).sum(-1)  # HERE


def written_out_of_rows(p, x):
    return (x[:, PERM, None] * p["w"][PERM]).sum(1)  # HERE


def summed_by_ones(p, x):
    return jnp.einsum("bio,i->bo", x[:, :, None] * p["w"], jnp.ones(16) + 0 * x[0])  # HERE


def added_beside_a_unit_axis(p, x):
    w = (p["w"][None] + jnp.ones((1, 16, 8)))[0]
    return x @ w  # HERE


def scaled_beside_a_unit_axis(p, x):
    w = (p["w"][None] * 0.5)[0]
    return x @ w  # HERE


def a_delta_for_each_input(p, x):
    deltas = x[:, :, None] * jnp.ones((3, 16, 8))
    return jax.vmap(lambda x, delta: x @ (p["w"] + delta))(x, deltas)  # HERE


def a_mask_for_each_input(p, x):
    masks = (x[:, :, None] > 0) * jnp.ones((3, 16, 8))
    return jax.vmap(lambda x, mask: x @ (p["w"] * mask))(x, masks)  # HERE


HIDDEN = [
    rows_by_index, rows_joined, rows_scaled, candidates, rows_in_scan, written_out,
    written_out_for_one, written_out_transposed, written_out_of_rows, summed_by_ones,
    added_beside_a_unit_axis, scaled_beside_a_unit_axis, a_delta_for_each_input,
    a_mask_for_each_input,
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("fn", HIDDEN, ids=lambda fn: fn.__name__)
def test_a_hidden_product_is_refused(fn):
    def model(p, x):
        return fn(p, x), x[:, :8] @ p["v"]

    with pytest.raises(UsageError, match="cannot be quantized") as caught:
        bj.ternarize(model, RULES)(PARAMS, X)
    assert caught.value.code == "transform.unfollowable"
    assert here(fn) in caught.value.message + " "
    name = "e" if fn is candidates else "w"
    kept = [bj.Rule(name, use="*", to="keep"), *RULES]
    jax.tree.map(
        np.testing.assert_array_equal,
        bj.ternarize(model, kept)(PARAMS, X)[0],
        fn(PARAMS, X),
    )


def test_lookups_that_a_rule_keeps_may_be_multiplied():
    rules = [bj.Rule("e", use="gather", to="keep"), *RULES]
    logits, some = bj.ternarize(candidates, rules)(PARAMS, X)
    np.testing.assert_array_equal(some, X @ PARAMS["e"][TOKENS].T)
    want = bj.ternarize(lambda p, x: x @ p["e"].T, RULES)({"e": PARAMS["e"]}, X)
    np.testing.assert_array_equal(logits, want)


def embedding(p, x):
    return (p["e"][TOKENS] * 4.0) @ p["w"]


def masked_embedding_normed(p, x):
    h = p["e"][TOKENS] * (x[:, :1] > 0)
    return (h - h.mean(-1, keepdims=True)) @ p["w"]


def masked_pooling(p, x):
    return (p["e"][TOKENS] * (x[:, :1] > 0)).sum(0) @ p["w"]


def gains_and_biases_of_heads(p, x):
    heads = (x @ p["w"] @ p["v"]).reshape(3, 2, 4)[:, :, None] * jnp.ones((3, 2, 4, 4))
    q, k = heads * p["gain"], heads + p["gain"]
    return jnp.einsum("bthd,bshd->bhts", q - q.mean(-1, keepdims=True), k)


def factorization(p, x):
    return (p["e"][TOKENS] * p["e"][TOKENS + 1]).sum(-1) + (x @ p["w"]).sum(-1)


def positions(p, x):
    h = p["e"][:3] + jnp.stack([x, 2 * x])
    return h.mean(1) @ p["w"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fn",
    [
        embedding, masked_embedding_normed, masked_pooling, gains_and_biases_of_heads,
        factorization, positions,
    ],
    ids=lambda fn: fn.__name__,
)  # fmt: skip
def test_what_only_looks_like_a_product_is_left_alone(fn):
    got = bj.ternarize(fn, RULES)(PARAMS, X)
    assert not np.allclose(got, fn(PARAMS, X), rtol=1e-3)  # its products are quantized
