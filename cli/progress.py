"""Progress of long work: a bar on a terminal, lines in a log, JSON, or nothing.

The library is given a `Progress` and says how far it is; how that looks is decided here.
Writes to the stream it is given (stderr; stdout only for the events of --emit jsonl) and
knows nothing of what the work is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from .envelope import dump, event
from .stdio import Writer

# A plain line at each tenth, and at least this often while nothing passes one.
PLAIN_SECONDS = 30.0


class Task:
    """One piece of work: `with progress.task("training", 1000, "steps") as task: ...`."""

    def __init__(self, sink: Sink, label: str, total: int | None, unit: str, clock: Callable):
        self.sink, self.label, self.total, self.unit = sink, label, total, unit
        self.done = 0
        self.fields: dict[str, Any] = {}
        self._clock = clock
        self.started = clock()
        self._first: tuple[float, int] | None = None
        self.finished = self.failed = False

    def update(self, n: int = 1, **fields: Any) -> None:
        """Says that `n` more units are done, and how things stand (loss=..., ...)."""
        self.done += n
        self.fields.update(fields)
        if self._first is None:
            # The first unit often pays for compilation: time left is reckoned from its end.
            self._first = (self._clock(), self.done)
        self.sink.update(self)

    def finish(self) -> None:
        """Ends the task; more than once does nothing."""
        if not self.finished:
            self.finished = True
            self.sink.finish(self)

    @property
    def elapsed(self) -> float:
        return self._clock() - self.started

    @property
    def seconds_left(self) -> float | None:
        """Returns the time that is left at the rate so far, or None when it cannot be known."""
        if self.total is None or self._first is None or self.done <= self._first[1]:
            return None
        seconds = self._clock() - self._first[0]
        return (self.total - self.done) * seconds / (self.done - self._first[1])

    def __enter__(self) -> Task:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.failed = kind is not None
        self.finish()


class Sink:
    """Shows nothing; base class of those that show something."""

    def start(self, task: Task) -> None:
        """A task begins."""

    def update(self, task: Task) -> None:
        """A task went on."""

    def finish(self, task: Task) -> None:
        """A task ended."""

    def line(self, text: str) -> None:
        """A line of talk, while tasks run."""

    def close(self) -> None:
        """Nothing follows."""


class PlainSink(Sink):
    """Lines for a log: one at each tenth."""

    def __init__(self, stream: Writer, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock = stream, clock
        self.shown: dict[Task, tuple[int, float]] = {}

    def start(self, task: Task) -> None:
        self.shown[task] = (0, self.clock())
        self.line(f"{task.label} ...")

    def update(self, task: Task) -> None:
        if task.total == 1:
            return  # its end says it all
        tenth, at = self.shown[task]
        now = task.done * 10 // task.total if task.total else 0
        if now > tenth or self.clock() - at >= PLAIN_SECONDS:
            self.shown[task] = (now, self.clock())
            self.line(describe(task))

    def finish(self, task: Task) -> None:
        self.shown.pop(task, None)
        self.line(ending(task))

    def line(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


class JsonSink(Sink):
    """One JSON event a line, at most ten a second for each task."""

    def __init__(self, stream: Writer, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock = stream, clock
        self.shown: dict[Task, float] = {}

    def start(self, task: Task) -> None:
        self._write(task)

    def update(self, task: Task) -> None:
        if self.clock() - self.shown[task] >= 0.1 or task.done == task.total:
            self._write(task)

    def finish(self, task: Task) -> None:
        self._write(task)

    def _write(self, task: Task) -> None:
        self.shown[task] = self.clock()
        record = event(
            "progress",
            label=task.label,
            done=task.done,
            total=task.total,
            unit=task.unit,
            seconds=round(task.elapsed, 3),
            seconds_left=task.seconds_left,
            finished=task.finished,
            **task.fields,
        )
        self.stream.write(dump(record, self.stream) + "\n")
        self.stream.flush()


class BarSink(Sink):
    """Bars on a terminal, several at once, that lines of talk do not tear."""

    def __init__(self, stream: Writer):
        self.stream = stream
        self.bars: Any = None
        self.ids: dict[Task, Any] = {}

    def start(self, task: Task) -> None:
        if self.bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

            self.bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}", markup=False),
                console=Console(file=cast(Any, self.stream), stderr=True),
                transient=True,
            )
            self.bars.start()
        self.ids[task] = self.bars.add_task(task.label, total=task.total, state="")

    def update(self, task: Task) -> None:
        self.bars.update(self.ids[task], completed=task.done, state=state(task))

    def finish(self, task: Task) -> None:
        self.bars.remove_task(self.ids.pop(task))
        self.line(ending(task))
        if not self.ids:
            self.close()

    def line(self, text: str) -> None:
        if self.bars is not None:
            self.bars.console.print(text, markup=False, highlight=False)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def close(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


class Progress:
    """What commands and the library are given."""

    def __init__(self, sink: Sink | None = None, clock: Callable[[], float] = time.monotonic):
        self.sink = sink or Sink()
        self.clock = clock

    def task(self, label: str, total: int | None = None, unit: str = "") -> Task:
        """Begins a piece of work of `total` units (None: not known ahead)."""
        task = Task(self.sink, label, total, unit, self.clock)
        self.sink.start(task)
        return task

    def close(self) -> None:
        self.sink.close()


def make(
    how: str, *, stderr: Writer, stdout: Writer, emit: str, quiet: bool, terminal: bool
) -> Progress:
    """Returns the progress that the options ask for; `terminal` says whether stderr is one."""
    if how == "none":
        return Progress()
    if emit == "jsonl":  # events are data: --quiet does not take them away
        return Progress(JsonSink(stdout))
    if quiet:
        return Progress()
    kinds: dict[str, Callable[[], Sink]] = {
        "auto": lambda: BarSink(stderr) if terminal else PlainSink(stderr),
        "plain": lambda: PlainSink(stderr),
        "json": lambda: JsonSink(stderr),
    }
    return Progress(kinds[how]())


def describe(task: Task) -> str:
    """Returns one line: label, how much, how things stand, time left."""
    return f"{task.label}: {state(task)}"


def ending(task: Task) -> str:
    """Returns the line for a task that ended: how much was done, or that it was not."""
    took = duration(task.elapsed)
    counts = task.done and task.total != 1 and task.unit
    if task.failed:
        done = f" {count(task.done, task.unit)}," if counts else ""
        return f"{task.label}: stopped after{done} {took}"
    return f"{task.label}: {count(task.done, task.unit) if counts else 'done'} in {took}"


def count(n: int, unit: str) -> str:
    """Returns `1 step`, `12 steps`; `unit` may be given as either."""
    return f"{n:,} {plural(n, unit)}".rstrip()


def plural(n: int, unit: str) -> str:
    singular = unit.removesuffix("s")
    return singular if n == 1 or not unit else f"{singular}s"


def state(task: Task) -> str:
    amount = count(task.done, task.unit)
    if task.total:
        amount = f"{task.done:,}/{count(task.total, task.unit)}"
    parts = [amount]
    if task.total:
        parts[0] += f" ({100 * task.done // task.total}%)"
    parts += [f"{field_name(name)} {number(value)}" for name, value in task.fields.items()]
    left = task.seconds_left
    if left is not None and task.done < (task.total or 0):
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def field_name(name: str) -> str:
    """Returns `tokens_per_second` as `tokens/s`."""
    return name.replace("_per_second", "/s").replace("_per_", "/").replace("_", " ")


def number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Returns 4.2 as `4.2 s`, 95 as `1 min 35 s`, 7260 as `2 h 1 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
