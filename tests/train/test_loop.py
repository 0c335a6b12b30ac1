"""The loop: learns, stops, resumes bit for bit, keeps to its minutes."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import BadData, CheckFailed, NoInput, Resumable
from bitnet_jax.train.checkpoint import list_steps, read_host
from bitnet_jax.train.loop import MEASURED_STEPS, train, with_steps
from bitnet_jax.train.optim import group_of
from bitnet_jax.train.signals import stop_on_signals


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


class FakeClock:
    """Advances by `step` at each reading, by `later` after the first twenty."""

    def __init__(self, step, later=None):
        self.now, self.step, self.later, self.readings = 0.0, step, later or step, 0

    def __call__(self):
        self.readings += 1
        self.now += self.step if self.readings <= 20 else self.later
        return self.now


def test_learns_what_context_gives(model_fn, params, data, config):
    result = train(model_fn, params, data, with_steps(config, 120))
    assert result.heldout_loss < result.unigram_entropy - 1.0
    assert result.unigram_entropy < result.unigram_loss
    assert result.step == result.total_steps == 120
    assert result.tokens == 120 * 4 * 16


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_same_recipe_same_bits(model_fn, params, data, config, name):
    config = replace(config, optimizer=replace(config.optimizer, name=name))
    a, b = (train(model_fn, params, data, config) for _ in range(2))
    assert same(a.state.params, b.state.params)


def test_the_given_parameters_are_left_alone(model_fn, params, data, config):
    before = {name: np.array(value) for name, value in params.items()}
    train(model_fn, params, data, with_steps(config, 2))
    assert same(before, params)


# λ is 1 from step 20 on, and another compiled step runs: before, at and after the switch.
@pytest.mark.parametrize(
    "at,saved",
    [
        (17, [10, 17]),
        pytest.param(20, [10, 20], marks=pytest.mark.heavy),
        pytest.param(23, [20, 23], marks=pytest.mark.heavy),
    ],
)
def test_resume_is_bit_equal(model_fn, params, data, config, tmp_path, at, saved):
    config = replace(config, lambda_steps=20, checkpoint_every=10)
    whole = train(model_fn, params, data, config)
    stop = StopAt(at)
    with pytest.raises(Resumable):
        train(model_fn, params, data, config, run_dir=tmp_path, progress=stop, stop=stop.event)
    assert list_steps(tmp_path / "checkpoints") == saved
    assert read_host(tmp_path).step == at
    zeros = {name: jnp.zeros_like(value) for name, value in params.items()}
    rest = train(model_fn, zeros, data, config, run_dir=tmp_path, resume_from=tmp_path)
    assert same(whole.state.params, rest.state.params)
    assert rest.heldout_loss == whole.heldout_loss
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 31))


def test_resume_from_an_older_checkpoint_drops_later_metrics(
    model_fn, params, data, config, tmp_path
):
    config = replace(config, checkpoint_every=10, keep_checkpoints=9)
    first = train(model_fn, params, data, config, run_dir=tmp_path)
    again = train(
        model_fn,
        params,
        data,
        config,
        run_dir=tmp_path,
        resume_from=tmp_path / "checkpoints" / "10",
    )
    assert same(first.state.params, again.state.params)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 31))


def test_keeps_the_newest_checkpoints(model_fn, params, data, config, tmp_path):
    config = replace(config, checkpoint_every=5, keep_checkpoints=2)
    result = train(model_fn, params, data, config, run_dir=tmp_path)
    assert list_steps(tmp_path / "checkpoints") == [25, 30]
    assert result.checkpoint == tmp_path / "checkpoints" / "30"


def test_a_loss_that_is_not_finite_names_its_step(model_fn, params, data, config, tmp_path):
    def poisoned(params, tokens, lam):
        return model_fn(params, tokens, lam) * jnp.where(lam < 0.5, 1.0, jnp.nan)

    config = replace(config, lambda_steps=20, checkpoint_every=5)
    with pytest.raises(CheckFailed, match="step 11") as caught:
        train(poisoned, params, data, config, run_dir=tmp_path)
    assert caught.value.code == "train.not_finite" and caught.value.exit_code == 1
    assert list_steps(tmp_path / "checkpoints") == [5, 10]


def test_lambda_rises_and_is_logged(model_fn, params, data, config, tmp_path):
    train(model_fn, params, data, replace(config, lambda_steps=10), run_dir=tmp_path)
    lams = [line["lam"] for line in lines(tmp_path) if "loss" in line]
    assert lams[:3] == pytest.approx([0, 0.1, 0.2]) and set(lams[10:]) == {1.0}


def test_heldout_loss_is_logged_as_asked(model_fn, params, data, config, tmp_path):
    train(model_fn, params, data, replace(config, eval_every=10), run_dir=tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "heldout_loss" in line] == [10, 20, 30]


def test_minutes_become_steps(model_fn, params, data, config):
    # Each reading of the clock is a second, and a step reads it twice: 2 minutes are about
    # 60 steps, whereas the measured step time (1 s) promises 115. The plan is made anew.
    config = replace(config, steps=None, minutes=2.0)
    result = train(model_fn, params, data, config, clock=FakeClock(1.0))
    assert 40 < result.total_steps < 70
    assert len(result.plan.changes) > 1
    assert result.step == result.total_steps
    assert result.seconds < 130


def test_a_machine_that_becomes_faster_takes_more_steps(model_fn, params, data, config):
    config = replace(config, steps=None, minutes=2.0)
    result = train(model_fn, params, data, config, clock=FakeClock(1.0, later=0.25))
    first, *changes = result.plan.changes
    assert changes and result.total_steps > 1.5 * first[1]
    assert result.seconds < 130


def test_the_same_plan_gives_the_same_bits(model_fn, params, data, config):
    timed = train(
        model_fn, params, data, replace(config, steps=None, minutes=0.5), clock=FakeClock(0.3)
    )
    assert timed.plan.changes[0] == (0, timed.plan.changes[0][1])
    if len(timed.plan.changes) == 1:
        counted = train(model_fn, params, data, with_steps(config, timed.total_steps))
        assert same(timed.state.params, counted.state.params)


def test_too_few_minutes_still_end(model_fn, params, data, config):
    config = replace(config, steps=None, minutes=0.001)
    result = train(model_fn, params, data, config, clock=FakeClock(10.0))
    assert result.step == MEASURED_STEPS
    assert np.isfinite(result.heldout_loss)


def test_sigterm_saves_and_is_resumable(model_fn, params, data, config, tmp_path):
    sender = StopAt(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Resumable) as caught, stop_on_signals() as stop:
        train(model_fn, params, data, config, run_dir=tmp_path, progress=sender, stop=stop)
    assert caught.value.exit_code == 75 and caught.value.code == "train.stopped"
    assert list_steps(tmp_path / "checkpoints") == [3]
    assert str(tmp_path) in caught.value.hint
    assert signal.getsignal(signal.SIGTERM) == before


def test_stopped_while_measuring_goes_on_with_a_plan(model_fn, params, data, config, tmp_path):
    config = replace(config, steps=None, minutes=2.0, warmup_steps=0)
    sender = StopAt(1)
    with pytest.raises(Resumable):
        train(
            model_fn,
            params,
            data,
            config,
            run_dir=tmp_path,
            progress=sender,
            clock=FakeClock(1.0),
            stop=sender.event,
        )
    assert list_steps(tmp_path / "checkpoints") == [2]
    assert read_host(tmp_path).plan.total > 20
    rates = [line["learning_rate"] for line in lines(tmp_path) if "loss" in line]
    assert rates == [config.optimizer.learning_rate] * 2


def test_ctrl_c_saves_and_stays_an_interrupt(model_fn, params, data, config, tmp_path):
    sender = StopAt(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        train(model_fn, params, data, config, run_dir=tmp_path, progress=sender, stop=stop)
    assert list_steps(tmp_path / "checkpoints") == [3]


def test_resume_from_nothing(model_fn, params, data, config, tmp_path):
    with pytest.raises(NoInput) as caught:
        train(model_fn, params, data, config, resume_from=tmp_path)
    assert caught.value.code == "train.no_checkpoint"


def test_resume_from_another_model(model_fn, params, data, config, tmp_path):
    train(model_fn, params, data, with_steps(config, 2), run_dir=tmp_path)
    other = params | {"norm": jnp.ones(2 * 16)}
    with pytest.raises(BadData) as caught:
        train(model_fn, other, data, config, resume_from=tmp_path)
    assert caught.value.code == "train.checkpoint"


def test_a_damaged_checkpoint(model_fn, params, data, config, tmp_path):
    train(model_fn, params, data, with_steps(config, 2), run_dir=tmp_path)
    for file in (tmp_path / "checkpoints" / "2" / "host").iterdir():
        file.write_text("{")
    with pytest.raises(BadData) as caught:
        train(model_fn, params, data, config, resume_from=tmp_path)
    assert caught.value.code == "train.checkpoint"


def test_groups():
    assert group_of("embed_tokens", (8, 4)) == group_of("lm_head", (8, 4)) == "embedding"
    assert group_of("layers.0.self_attn.q_proj", (4, 4)) == "matrix"
    assert group_of("experts", (2, 4, 4)) == "matrix"
    assert group_of("layers.0.input_layernorm", (4,)) == "vector"


class StopAt:
    """A progress that, at its n-th step, sets an event or does something."""

    def __init__(self, step, act=None):
        self.event = threading.Event()
        self.left, self.act = step, act or self.event.set

    def task(self, label, total, unit):
        assert label and total > 0 and unit in ("step", "program")
        self.steps = unit == "step"
        return self

    def update(self, n=1, **fields):
        assert n == 1 and (not self.steps or {"loss", "tokens_per_second"} <= fields.keys())
        self.left -= self.steps
        if self.left == 0:
            self.act()

    def finish(self):
        pass
