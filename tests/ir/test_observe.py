"""Ops have names by where they stand, and each value is seen on its way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bitnet_jax.ir.graph import flattened
from bitnet_jax.ir.observe import Observed, reached
from bitnet_jax.ir.program import trace


def function(params, x):
    gate = x @ params["mlp.gate"]
    up = x @ params["mlp.up"]
    y = jax.nn.sigmoid(gate) * up
    return x + y @ params["mlp.down"], params["mlp.down"] * np.float32(2)


PARAMS = {name: jnp.full((3, 3), 0.5, jnp.float32) for name in ("mlp.gate", "mlp.up", "mlp.down")}
X = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)


def observed():
    program = trace(function, PARAMS, X)
    return Observed(flattened(program.jaxpr), program.param_names)


def test_an_op_is_named_by_its_parameter_and_what_meets_by_its_module():
    assert [op.name for op in observed().ops] == [
        "mlp.gate:dot_general", "mlp.up:dot_general", "mlp.gate:logistic", "mlp:mul",
        "mlp.down:dot_general", "mlp.down:add", "output:0", "output:1",
    ]  # fmt: skip


def test_a_second_op_of_a_kind_and_place_has_a_number():
    program = trace(lambda p, x: jnp.sin(jnp.sin(x @ p["w"])), {"w": PARAMS["mlp.up"]}, X)
    ops = Observed(flattened(program.jaxpr), program.param_names).ops
    assert [op.name for op in ops] == ["w:dot_general", "w:sin", "w:sin#2", "output:0"]


def test_running_gives_what_the_function_gives_and_shows_every_value():
    run, seen = observed(), {}
    flat = [*(PARAMS[name] for name in sorted(PARAMS)), X]
    out = run.run(flat, lambda op, value: seen.setdefault(op.name, value))
    for one, two in zip(out, function(PARAMS, X), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(seen["mlp.up:dot_general"], X @ PARAMS["mlp.up"])
    assert list(seen) == [op.name for op in run.ops]


def test_what_is_given_back_is_what_it_goes_on_with():
    flat = [*(PARAMS[name] for name in sorted(PARAMS)), X]
    out = observed().run(flat, lambda op, v: v * 0 if op.name == "mlp:mul" else v)
    np.testing.assert_array_equal(out[0], X)


def test_what_an_op_depends_on_as_far_as_it_is_asked():
    ops = {op.name: op for op in observed().ops}
    found = {op.name for op in reached(ops, ops["mlp.down:add"], {"mlp:mul"}.__contains__)}
    assert found == {"mlp.down:dot_general"}
