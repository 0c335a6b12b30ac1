"""Rates, decay and λ by step, with and without a change of plan."""

from __future__ import annotations

import pytest

from bitnet_jax.train.config import Stage, TrainConfig
from bitnet_jax.train.schedule import Plan, controls

TWO_STAGES = TrainConfig(
    steps=100,
    warmup_steps=10,
    stages=(
        Stage(until=0.5, start=1.0, end=0.8, weight_decay=0.1),
        Stage(until=1.0, start=0.5, end=0.0),
    ),
)


def rates(config, plan, steps):
    return [controls(config, plan, step).learning_rate for step in steps]


def test_warms_up_to_the_peak():
    assert rates(TWO_STAGES, Plan(((0, 100),)), (0, 4, 9, 10)) == pytest.approx([0.1, 0.5, 1, 1])


def test_is_the_same_before_there_is_a_plan():
    known = rates(TWO_STAGES, Plan(((0, 100),)), range(10))
    assert rates(TWO_STAGES, None, range(10)) == known


def test_the_second_stage_drops_rate_and_decay():
    plan = Plan(((0, 110),))
    first, second = controls(TWO_STAGES, plan, 59), controls(TWO_STAGES, plan, 60)
    assert first.learning_rate == pytest.approx(0.804) and first.weight_decay == 0.1
    assert second.learning_rate == pytest.approx(0.5) and second.weight_decay == 0


def test_ends_near_zero():
    plan = Plan(((0, 110),))
    assert rates(TWO_STAGES, plan, (109, 110)) == pytest.approx([0.01, 0.0])


def test_a_shorter_plan_never_makes_the_rate_jump():
    config = TrainConfig(steps=100, warmup_steps=10)
    plan = Plan(((0, 100),)).changed(40, 60)
    assert plan.total == 60
    before, at, after = rates(config, plan, (39, 40, 41))
    assert before - at == pytest.approx(1 / 90)
    assert at - after == pytest.approx(at / 20)
    assert rates(config, plan, (60,)) == pytest.approx([0.0])


def test_a_run_shorter_than_its_warmup():
    assert rates(TWO_STAGES, Plan(((0, 5),)), (0, 4)) == pytest.approx([0.1, 0.5])


def test_lambda():
    config = TrainConfig(steps=100, lambda_steps=50)
    plan = Plan(((0, 100),))
    assert [controls(config, plan, s).lam for s in (0, 25, 50, 99)] == [0, 0.5, 1, 1]
    assert controls(TWO_STAGES, plan, 0).lam == 1.0
