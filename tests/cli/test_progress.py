"""Progress: lines in a log, JSON, a bar, nothing."""

import io
import json

import pytest

from bitnet_cli.progress import (
    BarSink,
    JsonSink,
    PlainSink,
    Progress,
    Sink,
    duration,
    ending,
    field_name,
    make,
    state,
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run(sink_class, steps=100, seconds=0.01):
    out, clock = io.StringIO(), Clock()
    progress = Progress(sink_class(out, clock), clock)
    with progress.task("training", steps, "steps") as task:
        for _ in range(steps):
            clock.now += seconds
            task.update(1, loss=2.5, tokens_per_second=1234.5)
    return out.getvalue().splitlines()


def test_plain_is_a_line_at_each_tenth():
    lines = run(PlainSink)
    assert lines[0] == "training ..."
    assert lines[1] == ("training: 10/100 steps (10%), loss 2.5, tokens/s 1,234, 0.9 s left")
    assert lines[-1] == "training: 100 steps in 1.0 s"
    assert len(lines) == 12


def test_plain_speaks_every_half_minute_between_tenths():
    assert len(run(PlainSink, steps=10, seconds=31)) == 12
    assert len(run(PlainSink, steps=100, seconds=31)) == 102


def test_plain_without_a_total():
    out = io.StringIO()
    with Progress(PlainSink(out)).task("reading", unit="files") as task:
        task.update(3)
    assert out.getvalue().splitlines()[-1].startswith("reading: 3 files in")


def test_one_step_is_begun_and_done():
    out, clock = io.StringIO(), Clock()
    with Progress(PlainSink(out, clock), clock).task("packing", 1, "step") as task:
        clock.now += 3
        task.update(1)
    assert out.getvalue() == "packing ...\npacking: done in 3.0 s\n"


@pytest.mark.parametrize(
    ("total", "unit", "done", "words"),
    [
        (12, "step", 12, "12 steps in 0.0 s"),
        (12, "steps", 1, "1 step in 0.0 s"),
        (12, "steps", 0, "done in 0.0 s"),
        (None, "files", 1200, "1,200 files in 0.0 s"),
        (None, "", 0, "done in 0.0 s"),
    ],
)
def test_an_ending_counts_in_words(total, unit, done, words):
    task = Progress(clock=Clock()).task("x", total, unit)
    task.done = done
    assert ending(task) == f"x: {words}"


@pytest.mark.parametrize(
    ("done", "words"), [(0, "stopped after 0.0 s"), (3, "stopped after 3 steps, 0.0 s")]
)
def test_what_failed_is_not_called_done(done, words):
    out = io.StringIO()
    with pytest.raises(KeyError), Progress(PlainSink(out), Clock()).task("x", 12, "steps") as task:
        task.done = done
        raise KeyError
    assert out.getvalue().splitlines()[-1] == f"x: {words}"


def test_json_is_an_event_a_line_and_not_more_than_ten_a_second():
    events = [json.loads(line) for line in run(JsonSink)]
    assert {event["event"] for event in events} == {"progress"}
    assert events[-1]["finished"] and events[-1]["done"] == 100 and events[-1]["loss"] == 2.5
    assert 10 <= len(events) <= 14


def test_a_bar_finishes_with_a_line_and_talk_does_not_tear_it():
    out = io.StringIO()
    sink = BarSink(out)
    progress = Progress(sink)
    with progress.task("packing", 2, "tensors") as task:
        task.update(1)
        sink.line("[red]talk")
        task.update(1)
    assert "[red]talk" in out.getvalue()
    assert "packing: 2 tensors in" in out.getvalue()
    assert sink.bars is None
    progress.close()


def test_a_task_that_fails_ends():
    sink = BarSink(io.StringIO())
    with pytest.raises(KeyError), Progress(sink).task("x"):
        raise KeyError
    assert sink.bars is None


def test_time_left_leaves_out_the_first_unit_which_compiles():
    clock = Clock()
    task = Progress(Sink(), clock).task("x", 11, "steps")
    clock.now += 100
    task.update(1)
    assert task.seconds_left is None
    clock.now += 1
    task.update(1)
    assert task.seconds_left == 9
    assert "9.0 s left" in state(task)


@pytest.mark.parametrize(
    ("how", "emit", "quiet", "terminal", "kind"),
    [
        ("auto", "table", False, True, BarSink),
        ("auto", "json", False, True, BarSink),
        ("auto", "table", False, False, PlainSink),
        ("plain", "table", False, True, PlainSink),
        ("json", "table", False, False, JsonSink),
        ("none", "jsonl", False, False, Sink),
        ("auto", "table", True, True, Sink),
        ("auto", "jsonl", True, True, JsonSink),
    ],
)
def test_make(how, emit, quiet, terminal, kind):
    out, err = io.StringIO(), io.StringIO()
    made = make(how, stderr=err, stdout=out, emit=emit, quiet=quiet, terminal=terminal)
    assert type(made.sink) is kind
    if emit == "jsonl" and kind is JsonSink:
        assert made.sink.stream is out


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (95, "1 min 35 s"), (7260, "2 h 1 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_field_name():
    assert field_name("tokens_per_second") == "tokens/s"
    assert field_name("zero_share") == "zero share"
