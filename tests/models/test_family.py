"""A family's function, names table and rules must say the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData
from bitnet_jax.models.cache import KVCache
from bitnet_jax.models.families import FAMILIES, family_of
from bitnet_jax.models.names import expected
from bitnet_jax.quant.rules import match
from tests.tiny import tiny_of, tiny_spec

SPEC = tiny_spec()


def ties(name):
    """Whether the head may be tied, in this family."""
    return family_of(name).values.get("tie_embeddings", (True, False))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("name", "tied"), [(n, tied) for n in FAMILIES for tied in ties(n)])
def test_init_gives_the_names_and_shapes_of_the_table(name, tied):
    spec = tiny_of(name, tie_embeddings=tied)
    params = family_of(name).init(spec, 0)
    rows = expected(spec)
    assert {k: v.shape for k, v in params.items()} == {k: row.shape for k, row in rows.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_rules_take_exactly_the_ternary_rows(name):
    rules = family_of(name).rules
    for row in expected(tiny_of(name)).values():
        if len(row.shape) > 1:
            assert (match(rules, row.name, "dot") is not None) == row.ternary, row.name


def test_step_by_step_through_the_cache_equals_the_whole_sequence():
    family = family_of("bitnet")
    params = family.init(SPEC, 0)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 48, (2, 9)), jnp.int32)
    whole = jax.jit(family.forward(SPEC))(params, tokens)
    step = jax.jit(family.step(SPEC))
    cache = KVCache.empty(SPEC, 2, 16)
    logits, cache = step(params, tokens[:, :5], cache, jnp.zeros(2, int), jnp.full(2, 4))
    np.testing.assert_allclose(logits, whole[:, 4], atol=1e-6)
    for at in range(5, 9):
        one = tokens[:, at : at + 1]
        logits, cache = step(params, one, cache, jnp.full(2, at), jnp.zeros(2, int))
        np.testing.assert_allclose(logits, whole[:, at], atol=1e-6)


def test_rows_of_a_batch_keep_their_own_positions():
    family = family_of("bitnet")
    params = family.init(SPEC, 0)
    rng = np.random.default_rng(0)
    long, short = rng.integers(0, 48, 7), rng.integers(0, 48, 3)
    tokens = jnp.asarray(np.stack([long, np.pad(short, (0, 4))]), jnp.int32)
    step = jax.jit(family.step(SPEC))
    cache = KVCache.empty(SPEC, 2, 16)
    last = jnp.asarray([6, 2])
    logits, cache = step(params, tokens, cache, jnp.zeros(2, int), last)
    nxt = jnp.asarray([[5], [6]])
    logits, _ = step(params, nxt, cache, last + 1, jnp.zeros(2, int))
    whole = jax.jit(family.forward(SPEC))
    for row, prompt in enumerate((long, short)):
        alone = whole(params, jnp.asarray([[*prompt, 5 + row]], jnp.int32))
        np.testing.assert_allclose(logits[row], alone[0, -1], atol=1e-6)


def test_an_unknown_family_lists_the_known():
    with pytest.raises(BadData, match="`bitnt` is not known") as caught:
        family_of("bitnt")
    assert "bitnet" in caught.value.hint
