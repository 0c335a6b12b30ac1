"""Packed parameters through Flax's serialization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData
from tests.passes.laws.case import normal

PARAMS = {
    "layer": {"w": jnp.asarray(normal(32, 24)), "b": jnp.asarray(normal(24))},
    "e": jnp.asarray(normal(10, 32)),
}
TOKENS = jnp.array([1, 2, 3])
RULES = [bj.Rule("layer.w", scale="row"), bj.Rule("e", to="int8")]


def model(p, tokens):
    x = p["e"][tokens]
    return x @ p["layer"]["w"] + p["layer"]["b"], x @ p["e"].T


def packed_with(rules, fill=None):
    params = PARAMS if fill is None else jax.tree.map(lambda x: jnp.full_like(x, fill), PARAMS)
    return bj.pack(model, params, rules, TOKENS)


@pytest.mark.parametrize("way", ["bytes", "state dict"])
def test_there_and_back(way):
    packed, target = packed_with(RULES), packed_with(RULES, fill=1.0)
    if way == "bytes":
        again = serialization.from_bytes(target, serialization.to_bytes(packed))
    else:
        again = serialization.from_state_dict(target, serialization.to_state_dict(packed))
    assert jax.tree.structure(again) == jax.tree.structure(packed)
    jax.tree.map(np.testing.assert_array_equal, again, packed)
    run = bj.ternarize(model, RULES, mode="packed")
    jax.tree.map(np.testing.assert_array_equal, run(again, TOKENS), run(packed, TOKENS))


def test_inside_a_training_state():
    state = {"step": 3, "params": packed_with(RULES)}
    again = serialization.from_bytes(state, serialization.to_bytes(state))
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ([bj.Rule("layer.w"), bj.Rule("e", to="int8")], "layer.w"),
        ([bj.Rule("layer.w", to="int4", scale="row"), bj.Rule("e", to="int8")], "layer.w"),
        ([bj.Rule("layer.w", scale="row")], "e@dot"),
    ],
    ids=["another scale", "another kind", "another leaf"],
)
def test_what_was_packed_otherwise_is_refused(rules, named):
    data = serialization.to_bytes(packed_with(RULES))
    with pytest.raises(BadData, match=named) as caught:
        serialization.from_bytes(packed_with(rules), data)
    assert caught.value.code == "transform.packed_state"


def test_codes_of_another_shape_are_refused():
    state = serialization.to_state_dict(packed_with(RULES))
    state["layer.w"]["codes"] = state["layer.w"]["codes"][:1]
    with pytest.raises(BadData, match=r"`\./layer\.w`|layer\.w"):
        serialization.from_state_dict(packed_with(RULES), state)
