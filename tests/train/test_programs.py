"""The compiled steps: which there are, that none is made later, and what λ = 1 computes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from bitnet_jax.passes.pack import pack
from bitnet_jax.passes.transform import ternarize
from bitnet_jax.quant.rules import Rule
from bitnet_jax.train.config import TrainConfig
from bitnet_jax.train.loop import train
from bitnet_jax.train.programs import (
    EVALUATION,
    EXACT,
    LABELS,
    RISING,
    compile_programs,
    needed,
)
from bitnet_jax.train.schedule import Controls
from bitnet_jax.train.step import init_state, loss_of

COMPILED = "/jax/core/compile/backend_compile_duration"


class Log:
    """A progress that notes what was done, and how much XLA had compiled at each step."""

    def __init__(self):
        self.labels, self.compiled, self.at_steps = [], 0, []

    def task(self, label, total, unit):
        self.labels.append(label)
        self.unit = unit
        return self

    def update(self, n=1, **fields):
        if self.unit == "step":
            self.at_steps.append(self.compiled)

    def finish(self):
        pass

    def heard(self, event, duration, **more):
        self.compiled += event == COMPILED

    @property
    def programs(self):
        names = {f"compiling {label}": name for name, label in LABELS.items()}
        return [names[label] for label in self.labels if label in names]


@pytest.fixture
def log():
    log = Log()
    jax.monitoring.register_event_duration_secs_listener(log.heard)
    yield log
    jax.monitoring.unregister_event_duration_listener(log.heard)


@pytest.mark.parametrize(
    ("lambda_steps", "first", "total", "wanted"),
    [
        (0, 0, 30, [EXACT]),
        (10, 0, 30, [RISING, EXACT]),
        (10, 9, 30, [RISING, EXACT]),
        (10, 10, 30, [EXACT]),
        (30, 0, 30, [RISING]),  # λ = 1 would be the step after the last
        (10, 0, None, [RISING, EXACT]),
        (10, 10, None, [EXACT]),
        (10, 30, 30, []),  # resumed at its end: nothing but the evaluation is left
    ],
)
def test_what_a_run_needs(lambda_steps, first, total, wanted):
    assert list(needed(lambda_steps, first, total)) == [*wanted, EVALUATION]


def test_nothing_is_compiled_after_the_first_step(model_fn, params, data, config, log, tmp_path):
    config = replace(config, lambda_steps=10, eval_every=8, checkpoint_every=12)
    train(model_fn, params, data, config, run_dir=tmp_path, progress=log)
    assert log.programs == [RISING, EXACT, EVALUATION]
    assert len(log.at_steps) == 30
    assert log.at_steps[0] == log.compiled >= 3


def test_a_budget_of_minutes_compiles_before_it_is_measured(model_fn, params, data, config, log):
    config = replace(config, steps=None, minutes=0.02, lambda_steps=4)
    train(model_fn, params, data, config, progress=log)
    assert log.programs == [RISING, EXACT, EVALUATION]
    assert log.labels[3] == "timing the first steps"
    assert log.at_steps[0] == log.compiled


def test_a_resumed_run_compiles_what_is_left(model_fn, params, data, config, log, tmp_path):
    config = replace(config, lambda_steps=10, checkpoint_every=5, keep_checkpoints=9)
    train(model_fn, params, data, config, run_dir=tmp_path)
    for step, wanted in ((5, [RISING, EXACT]), (10, [EXACT]), (30, [])):
        log.labels.clear()
        folder = tmp_path / "checkpoints" / str(step)
        train(model_fn, params, data, config, resume_from=folder, progress=log)
        assert log.programs == [*wanted, EVALUATION]


def test_what_was_compiled_and_for_how_long_stands_in_the_metrics(
    model_fn, params, data, config, tmp_path
):
    train(model_fn, params, data, replace(config, steps=1), run_dir=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = {line["compiled"]: line["seconds"] for line in lines if "compiled" in line}
    assert list(told) == [EXACT, EVALUATION] and all(seconds > 0 for seconds in told.values())


def test_the_model_is_told_lambda_one_at_trace_time(model_fn, params, data, config):
    told = []

    def asking(params, tokens, lam):
        told.append(lam)
        return model_fn(params, tokens, lam)

    train(asking, params, data, replace(config, lambda_steps=3))
    rising, *others = told
    assert isinstance(rising, jax.core.Tracer)
    assert others == [1.0, 1.0]  # the exact step, the evaluation


RULES = (Rule("**.up_proj"), Rule("**.down_proj"))


def mlp(params, tokens):
    """Embedding, two ternary products, a head that is none: int32 [..] to [.., 32]."""
    x = params["embed_tokens"][tokens]
    hidden = jax.nn.relu(x @ params["layers.0.mlp.up_proj"].T)
    return (x + hidden @ params["layers.0.mlp.down_proj"].T) @ params["embed_tokens"].T


@pytest.mark.sampled(2)
@pytest.mark.parametrize("forward", ["float32", "int8"])
def test_the_loss_at_lambda_one_is_that_of_the_packed_model(data, forward):
    keys = jax.random.split(jax.random.key(3), 3)
    params = {
        "embed_tokens": jax.random.normal(keys[0], (32, 16)),
        "layers.0.mlp.up_proj": jax.random.normal(keys[1], (48, 16)),
        "layers.0.mlp.down_proj": jax.random.normal(keys[2], (16, 48)),
    }
    config = TrainConfig(steps=4, batch=4, length=16, lambda_steps=2)
    windows = data.train[: 4 * 17].reshape(4, 17)
    qat = ternarize(mlp, RULES, "qat", forward=forward)

    def model_fn(params, tokens, lam):
        return qat(params, tokens, lam=lam)

    state = init_state(params, config.optimizer)
    programs = compile_programs(
        model_fn, config, state, 4, [EXACT], lambda name: contextlib.nullcontext()
    )
    _, metrics = programs.step(state, windows, Controls(1.0, 0.0, 1.0))
    packed = pack(mlp, params, RULES, windows[:, :-1])
    run = ternarize(mlp, RULES, "packed")
    loss = jax.jit(lambda p, w: loss_of(lambda q, t, lam: run(q, t), p, w, 1.0))(packed, windows)
    assert np.asarray(metrics["loss"]).tobytes() == np.asarray(loss).tobytes()
