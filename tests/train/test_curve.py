"""The course of a run, from the lines that are logged."""

import json

from bitnet_jax.train.curve import POINTS, Curve

STEP = {"loss": 5.0, "learning_rate": 0.1, "lam": 1.0, "weight_decay": 0.1}


def test_lines_of_steps_and_of_evaluations_are_told_apart():
    curve = Curve()
    curve.take({"step": 0, "compiled": "step", "seconds": 1.0})
    curve.take({"step": 1, **STEP})
    curve.take({"step": 1, "heldout_loss": 6.0, "unigram_entropy": 7.0})
    assert curve.record() == {
        "curve": [
            {
                "step": 1,
                "loss": 5.0,
                "loss_low": 5.0,
                "loss_high": 5.0,
                "learning_rate": 0.1,
                "lam": 1.0,
            }
        ],
        "heldout_curve": [{"step": 1, "heldout_loss": 6.0}],
    }


def test_a_long_run_has_a_short_curve():
    curve = Curve()
    for step in range(100_000):
        curve.take({"step": step, "loss": float(step)})
    rows = curve.record()["curve"]
    assert POINTS < len(rows) <= 2 * POINTS and rows[-1]["step"] == 99_999


def test_a_run_that_goes_on_has_the_course_of_both(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    curve = Curve()
    curve.take_file(metrics)  # a new run has none
    metrics.write_text("".join(json.dumps({"step": n, **STEP}) + "\n" for n in (1, 2)))
    curve.take_file(metrics)
    curve.take({"step": 3, **STEP})
    assert [row["step"] for row in curve.record()["curve"]] == [1, 2, 3]
