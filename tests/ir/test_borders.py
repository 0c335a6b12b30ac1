"""Where a program falls in two: the same places in what the engine runs and what is exported."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.containers.native import open_native
from bitnet_jax.export import stablehlo
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.ir.borders import borders
from bitnet_jax.ir.program import trace
from bitnet_jax.models.families import FAMILIES
from bitnet_jax.runtime.stepwise import Stepwise, form_of
from tests.export.models import small_checkpoint
from tests.tiny import tiny_of

TOKENS = np.zeros((2, 3), np.int32)


def found(fn):
    params = {name: jnp.ones((4, 4)) for name in ("first", "second", "third")}
    program = trace(fn, params, jnp.ones((6, 4)), jnp.ones((6, 4)))
    names = {var: str(eqn.primitive) for eqn in program.jaxpr.jaxpr.eqns for var in eqn.outvars}
    return {name: names[var] for name, var in borders(program, 6).items()}


def test_a_value_that_all_else_is_made_of_is_a_border():
    def chain(params, x, mask):
        x = jnp.sin(x @ params["first"]) * jnp.cos(mask)  # a mask is there on both sides
        x = jnp.tanh(x + x @ params["second"])
        return x @ params["third"]

    assert found(chain) == {"second": "mul", "third": "tanh"}


def test_a_value_that_is_passed_by_is_none():
    def skips(params, x, mask):
        first = jnp.sin(x @ params["first"])
        second = jnp.tanh(first @ params["second"])
        return second @ params["third"] + first

    assert found(skips) == {"second": "sin"}


def test_a_result_that_nothing_reads_hides_no_border():
    def caches(params, x, mask):
        cache = x @ params["first"]
        x = jnp.sin(cache)
        return jnp.tanh(x @ params["second"]), cache

    assert found(caches) == {"second": "sin"}


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_every_family_is_one_or_more_pieces(family, tmp_path):
    spec = dataclasses.replace(tiny_of(family), num_layers=3)
    checkpoint = small_checkpoint(tmp_path, spec=spec)
    save_checkpoint(checkpoint, tmp_path / "m.bitnet")
    forms = {name: form_of(checkpoint.read(name)) for name in checkpoint.entries}
    engine = Stepwise(checkpoint, forms, frozenset(), TOKENS).program
    weights = open_native(tmp_path / "m.bitnet")
    exported = stablehlo.program_of(spec, weights, stablehlo.Sizes(2, 3, 6))
    names = borders(engine, TOKENS.size).keys()
    assert names == borders(exported, TOKENS.size).keys()
    assert {f"layers.{layer}.input_layernorm" for layer in range(3)} <= names
