"""Pipelines: run in order, checked between steps, each with its reason."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import InternalError
from bitnet_jax.ir.program import trace
from bitnet_jax.ir.stages import VERIFY
from bitnet_jax.passes import pipelines
from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.pipelines import Pass, run_pipeline
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule

RULES = (Rule("**"),)
PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)}
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4)), jnp.float32)


def linear(params, x):
    return x @ params["w"]


def noted(name):
    return Pass(name, lambda program: program.derived(name, program.jaxpr), f"{name} has a reason")


def careless(program):
    closed = program.jaxpr
    return program.derived("careless", closed.replace(jaxpr=closed.jaxpr.replace(eqns=[])))


def shipped():
    packed = pack(linear, PARAMS, RULES, X)
    return {
        "qat": pipelines.qat(RULES),
        "qat with λ": pipelines.qat(RULES, traced_lambda=True),
        "packed": pipelines.packed(packed),
        "portable": pipelines.portable(packed),
    }


@pytest.mark.parametrize("name", ["qat", "qat with λ", "packed", "portable"])
def test_each_step_says_why_and_goes_by_its_own_name(name):
    steps = shipped()[name]
    made = run_pipeline(trace(linear, PARAMS, X), steps, check=True)
    assert made.passes == tuple(step.name for step in steps)
    assert all(len(step.reason.split()) > 5 for step in steps)


def test_the_pipeline_is_what_ternarize_runs():
    packed = pack(linear, PARAMS, RULES, X)
    program = trace(linear, PARAMS, X)
    qat = run_pipeline(program, pipelines.qat(RULES))(PARAMS, X)
    run = run_pipeline(program, pipelines.packed(packed))(packed, X)
    assert np.array_equal(qat, ternarize(linear, RULES)(PARAMS, X))
    assert np.array_equal(run, ternarize(linear, RULES, "packed")(packed, X))
    assert np.array_equal(run, qat)


def test_steps_run_in_order_and_are_written(tmp_path):
    program = run_pipeline(
        trace(linear, PARAMS, X), [noted("one"), noted("two")], dump=tmp_path / "d"
    )
    assert program.passes == ("one", "two")
    assert sorted(path.name for path in (tmp_path / "d" / "00-program").iterdir()) == [
        "00-input.txt",
        "01-one.txt",
        "02-two.txt",
    ]


def test_checked_a_broken_step_is_named(monkeypatch):
    monkeypatch.delenv(VERIFY)
    steps = [noted("one"), Pass("careless", careless, "breaks it"), noted("two")]
    with pytest.raises(InternalError, match="pass `careless`, which was given what `one` left"):
        run_pipeline(trace(linear, PARAMS, X), steps, check=True)
    assert run_pipeline(trace(linear, PARAMS, X), steps).passes == ("one", "careless", "two")


@pytest.mark.parametrize(
    "run", [lambda program: program, lambda program: program.derived("other", program.jaxpr)]
)
def test_a_step_that_goes_by_another_name(run):
    with pytest.raises(InternalError) as caught:
        run_pipeline(trace(linear, PARAMS, X), [Pass("mine", run, "to be seen")])
    assert caught.value.code == "pipeline.step" and "derived(NAME" in caught.value.hint
