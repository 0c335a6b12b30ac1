"""The training loop: clock, files, signals and progress around the pure step.

Everything that is not a function of (state, batch) happens here: when to stop,
save and evaluate, how many steps the minutes allow, what is logged. Knows no
family and no text: it is given a model function, parameters and tokens.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, CheckFailed, Resumable
from bitnet_jax.core.paths import atomic_file, os_failure
from bitnet_jax.train import checkpoint
from bitnet_jax.train.checkpoint import HostState
from bitnet_jax.train.config import TrainConfig
from bitnet_jax.train.curve import Curve
from bitnet_jax.train.data import (
    DataState,
    Windows,
    heldout_windows,
    unigram_cross_entropy,
    unigram_entropy,
)
from bitnet_jax.train.programs import LABELS, Programs, compile_programs, needed
from bitnet_jax.train.schedule import Plan, controls
from bitnet_jax.train.step import ModelFn, TrainState, init_state

# Steps timed before the number of steps is fixed; the very first touches cold memory.
MEASURED_STEPS = 6
# Share of the minutes kept for the last evaluation and for steps slower than measured.
RESERVE = 0.04
# The plan is made anew when the clock says that it will end this much over the budget, or,
# in the first half of the run, this much under it.
OVERRUN, UNDERRUN = 1.05, 0.85


@dataclass(frozen=True)
class TrainData:
    """Token streams: int32, one-dimensional."""

    train: np.ndarray
    heldout: np.ndarray


@dataclass
class TrainResult:
    """What a run gives back.

    Attributes:
      state: the last state; `state.params` are the latent float32 weights.
      heldout_loss, unigram_entropy, unigram_loss: nats per token of the same held-out
        tokens: the model's at λ = 1, their own distribution's entropy, and the loss of
        the training text's unigram model (add-one).
      loss: mean of the last 20 steps.
      tokens_per_second: of the median step.
      checkpoint: the last one written, if any.
      curve: loss, rate and λ by step, thinned.
    """

    state: TrainState
    step: int
    total_steps: int
    loss: float
    heldout_loss: float
    unigram_entropy: float
    unigram_loss: float
    tokens: int
    seconds: float
    tokens_per_second: float
    plan: Plan
    checkpoint: Path | None
    curve: Curve

    def record(self) -> dict[str, Any]:
        """Returns the figures as plain data, without the state."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "plan": [list(change) for change in self.plan.changes],
            "loss": self.loss,
            "heldout_loss": self.heldout_loss,
            "unigram_entropy": self.unigram_entropy,
            "unigram_loss": self.unigram_loss,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            **self.curve.record(),
        }


def train(
    model_fn: ModelFn,
    params: Mapping[str, Any],
    data: TrainData,
    config: TrainConfig,
    *,
    run_dir: Path | None = None,
    resume_from: Path | None = None,
    spec: dict[str, Any] | None = None,
    rules: list[dict[str, Any]] | None = None,
    progress: Any = None,
    clock: Callable[[], float] = time.monotonic,
    stop: threading.Event | None = None,
    begun: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Trains as the recipe says.

    Args:
      model_fn: ``(params, tokens int32 [batch, length], lam) -> logits``.
      params: the float weights to begin with; with `resume_from` only their shapes count.
      run_dir: an existing folder for ``metrics.jsonl`` and ``checkpoints``; None: no file
        is written.
      resume_from: a run, its checkpoints folder or one checkpoint; what follows is bit
        for bit what would have followed there (its plan holds, not the recipe's budget).
      spec, rules: the model's spec and what is made ternary, as plain data, kept in each
        checkpoint: with them it can be converted like any model.
      progress: has ``task(label, total, unit)`` giving ``update(n, **fields)`` and
        ``finish()``; None shows nothing.
      stop: set from outside (SIGTERM) to end after the step in hand.
      begun: called when nothing of what was given is refused and all is compiled, before the
        first step; until then no file is written.

    Raises:
      CheckFailed: the loss is not finite (``train.not_finite``); the message names the
        step, and the checkpoints written before it stand.
      Resumable: `stop` was set (``train.stopped``); the state was saved if there is a
        `run_dir`.
    """
    run = _Run(model_fn, params, data, config, run_dir, spec, rules, progress, clock)
    if resume_from is not None:
        run.restore(Path(resume_from))
    return run.go(stop or threading.Event(), begun)


class _Run:
    """The loop's moving parts; one object lives for one call of `train`."""

    def __init__(self, model_fn, params, data, config, run_dir, spec, rules, progress, clock):
        self.config, self.clock, self.spec, self.rules = config, clock, spec, rules
        self.started = clock()
        self.windows = Windows(data.train, config.length)
        self.heldout = heldout_windows(data.heldout, config.length, config.eval_windows)
        targets = self.heldout[:, 1:]
        self.unigram_entropy = unigram_entropy(targets)
        vocab = int(max(data.train.max(), targets.max())) + 1
        self.unigram_loss = unigram_cross_entropy(data.train, targets, vocab)
        self.state = init_state(params, config.optimizer)
        self.model_fn = model_fn
        self.programs = Programs({})
        self.step = 0
        self.data_state = DataState(config.seed)
        # None until the number of steps is known: given, restored, or measured.
        self.planned: Plan | None = Plan(((0, config.steps),)) if config.steps else None
        self.resumed = False
        self.progress = progress
        self.checkpoints = run_dir / "checkpoints" if run_dir else None
        self.metrics = run_dir / "metrics.jsonl" if run_dir else None
        self.saved: Path | None = None
        self.curve = Curve()
        self.unwritten: list[str] | None = []  # lines of the log from before the run has begun
        self.losses: list[float] = []
        self.times: list[float] = []

    @property
    def plan(self) -> Plan:
        """How many steps there will be; known once `planned` is set."""
        assert self.planned is not None
        return self.planned

    # ------------------------------------------------------------------ files
    def restore(self, path: Path) -> None:
        self.state, host = checkpoint.restore(path, self.state)
        if host.spec != self.spec:
            raise BadData(
                "train.other_model",
                f"`{path}` is a checkpoint of another model: {_difference(host.spec, self.spec)}",
                "resume with the recipe that the run was started with",
            )
        self.step, self.data_state, self.planned = host.step, host.data, host.plan
        self.resumed = True
        wanted = self.config.steps
        if wanted is not None and wanted != self.plan.total:
            # The recipe's word now: train on, to the new number of steps.
            self.planned = self.plan.changed(self.step, max(wanted, self.step))
            self.log(step=self.step, planned_steps=self.plan.total)
        if self.metrics is not None:
            _drop_after(self.metrics, self.step)
            self.curve.take_file(self.metrics)

    def save(self) -> None:
        if self.checkpoints is None or self.planned is None:
            return
        host = HostState(self.step, self.data_state, self.planned, self.spec, self.rules)
        self.saved = checkpoint.save(
            self.checkpoints, self.state, host, self.config.keep_checkpoints
        )

    def log(self, **fields: Any) -> None:
        self.curve.take(fields)
        line = json.dumps(fields) + "\n"
        if self.unwritten is None:
            self._write(line)
        else:
            self.unwritten.append(line)

    def _write(self, lines: str) -> None:
        if self.metrics is None:
            return
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(lines)
        except OSError as error:
            raise os_failure(error, "write", self.metrics) from error

    # ------------------------------------------------------------------- loop
    def go(self, stop: threading.Event, begun: Callable[[], None]) -> TrainResult:
        self._compile()
        begun()
        # Not before: a run that was killed while it compiled leaves its folder free.
        lines, self.unwritten = self.unwritten, None
        self._write("".join(lines or ()))
        if self.planned is None:
            self._measure(stop)
        with self._task("training", self.plan.total - self.step, "step") as update:
            while self.step < self.plan.total:
                self._stop_if_asked(stop)
                self._one_step(update)
                self._replan()
                self._save_and_evaluate()
        heldout = self._evaluate()
        self.save()
        return self._result(heldout)

    def _compile(self) -> None:
        """Compiles all that this run will call: no step or evaluation waits for it later."""
        # A plan made from the clock may be made anew; a restored or a given one stays.
        settled = self.planned is not None and (self.config.minutes is None or self.resumed)
        total = self.plan.total if settled else None
        self.programs = compile_programs(
            self.model_fn,
            self.config,
            self.state,
            len(self.heldout),
            needed(self.config.lambda_steps, self.step, total),
            self._compiling,
        )

    @contextlib.contextmanager
    def _compiling(self, name: str) -> Iterator[None]:
        begun = self.clock()
        with self._task(f"compiling {LABELS[name]}", 1, "program") as update:
            yield
            update(1)
        self.log(step=self.step, compiled=name, seconds=self.clock() - begun)

    def _measure(self, stop: threading.Event) -> None:
        """Takes the first steps (they count), then fixes how many the minutes allow."""
        with self._task("timing the first steps", MEASURED_STEPS, "step") as update:
            for _ in range(MEASURED_STEPS):
                self._one_step(update)
                # The first step tells nothing of the others; with two the plan can be made
                # that the stop saves, and that a resumed run goes on with.
                if stop.is_set() and len(self.times) > 1:
                    break
        self.planned = Plan(((0, self._affordable()),))
        self.log(step=self.step, planned_steps=self.plan.total)

    def _affordable(self) -> int:
        """The number of steps at which the budget will be used up."""
        # Less the first, the median of the latest.
        step_time = statistics.median(self.times[1:][-25:])
        left = self.config.minutes * 60 * (1 - RESERVE) - (self.clock() - self.started)
        return self.step + max(int(left / step_time), 0)

    def _replan(self) -> None:
        """Fits the plan to a machine that became slower, or faster, than it was measured."""
        if self.config.minutes is None or self.resumed or self.step % 20:
            return
        affordable = self._affordable()
        wanted, left = self.plan.total - self.step, affordable - self.step
        late = wanted > left * OVERRUN + 2
        early = wanted < left * UNDERRUN and 2 * self.step < self.plan.total
        if late or early:
            self.planned = self.plan.changed(self.step, affordable)
            self.log(step=self.step, planned_steps=affordable)

    def _one_step(self, update: Callable[..., None]) -> None:
        batch, data_state = self.windows.next_batch(self.data_state, self.config.batch)
        told = controls(self.config, self.planned, self.step)
        begun = self.clock()
        state, metrics = self.programs.step(self.state, batch, told)
        loss = float(metrics["loss"])
        self.times.append(self.clock() - begun)
        self.state, self.data_state, self.step = state, data_state, self.step + 1
        if not math.isfinite(loss):
            raise CheckFailed(
                "train.not_finite",
                f"the loss is {loss} at step {self.step}",
                "lower the learning rate, or raise warmup_steps; earlier checkpoints stand",
            )
        self.losses.append(loss)
        speed = self.config.batch * self.config.length / statistics.median(self.times[-20:])
        update(1, loss=sum(self.losses[-20:]) / len(self.losses[-20:]), tokens_per_second=speed)
        self.log(
            step=self.step,
            loss=loss,
            gradient_norm=float(metrics["gradient_norm"]),
            learning_rate=told.learning_rate * self.config.optimizer.learning_rate,
            weight_decay=told.weight_decay,
            lam=told.lam,
            tokens_per_second=self.config.batch * self.config.length / self.times[-1],
        )

    def _save_and_evaluate(self) -> None:
        config, last = self.config, self.step >= self.plan.total
        if config.eval_every and self.step % config.eval_every == 0 and not last:
            self._evaluate()
        if config.checkpoint_every and self.step % config.checkpoint_every == 0 and not last:
            self.save()

    def _evaluate(self) -> float:
        loss = self.programs.evaluate(self.state.params, self.heldout, self.config.batch)
        self.log(step=self.step, heldout_loss=loss, unigram_entropy=self.unigram_entropy)
        return loss

    def _stop_if_asked(self, stop: threading.Event) -> None:
        if stop.is_set():
            self.save()
            raise Resumable(
                "train.stopped",
                f"stopped after step {self.step}",
                f"resume with --resume-from {self.saved}" if self.saved else None,
            )

    @contextlib.contextmanager
    def _task(self, label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        if self.progress is None:
            yield lambda n=1, **fields: None
            return
        task = self.progress.task(label, total, unit)
        try:
            yield task.update
        finally:
            task.finish()

    def _result(self, heldout: float) -> TrainResult:
        per_step = self.config.batch * self.config.length
        latest = self.losses[-20:]
        times = self.times[1:] or self.times
        return TrainResult(
            state=self.state,
            step=self.step,
            total_steps=self.plan.total,
            loss=sum(latest) / len(latest) if latest else math.nan,
            heldout_loss=heldout,
            unigram_entropy=self.unigram_entropy,
            unigram_loss=self.unigram_loss,
            tokens=self.step * per_step,
            seconds=self.clock() - self.started,
            tokens_per_second=per_step / statistics.median(times) if times else 0.0,
            plan=self.plan,
            checkpoint=self.saved,
            curve=self.curve,
        )


def _difference(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> str:
    theirs, ours = theirs or {}, ours or {}
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return ", ".join(f"{name} {theirs.get(name)} there, {ours.get(name)} here" for name in names)


def _drop_after(metrics: Path, step: int) -> None:
    """Removes the lines of steps that the resumed run will take again."""
    if not metrics.exists():
        return
    lines = metrics.read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the last line of a killed run may be cut short
            continue
    with atomic_file(metrics, mode="w") as stream:
        stream.write("".join(kept))


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """Returns the recipe for a fixed number of steps, whatever budget it had."""
    return replace(config, steps=steps, minutes=None)
