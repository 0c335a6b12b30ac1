"""What quickstart replaces, and what it refuses before any work.

A run that was whole survives those after it that were killed.
"""

from __future__ import annotations

import pytest

from bitnet_jax.core.errors import CannotCreate, ConfigError
from bitnet_jax.workflows import quickstart as workflow
from bitnet_jax.workflows.quickstart import RECEIPT_FILE, _fresh_folder, quickstart


@pytest.fixture
def no_work(monkeypatch):
    """The training replaced: a run is whole as soon as its folder is there."""
    done = []

    def run(folder, *rest):
        (folder / RECEIPT_FILE).write_text("new")
        done.append(folder)
        return {}

    monkeypatch.setattr(workflow, "_quickstart", run)
    return done


def test_a_whole_run_is_kept_through_two_killed_ones(tmp_path):
    folder = tmp_path / "quickstart"
    folder.mkdir()
    (folder / RECEIPT_FILE).write_text("whole")
    for _ in range(3):  # each is killed once it has begun to write
        _fresh_folder(folder, force=True)
        assert list(folder.iterdir()) == []
        (folder / "metrics.jsonl").write_text("cut")
        kept = tmp_path / "quickstart.previous"
        assert (kept / RECEIPT_FILE).read_text() == "whole"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_strangers_previous_is_refused_before_any_work(tmp_path, no_work, used, force):
    theirs = tmp_path / "qs.previous"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years")
    if used:
        (tmp_path / "qs").mkdir()
        (tmp_path / "qs" / RECEIPT_FILE).write_text("whole")
    with pytest.raises(CannotCreate) as caught:
        quickstart(output=tmp_path / "qs", force=force)
    assert caught.value.code == ("quickstart.not_ours" if force else "io.exists")
    assert (theirs / "thesis.txt").read_text() == "years" and not no_work
    assert (tmp_path / "qs").exists() == used


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a run"])
def test_a_previous_that_is_no_folder_is_refused(tmp_path, no_work, kind):
    theirs = tmp_path / "qs.previous"
    if kind == "file":
        theirs.write_text("theirs")
    else:
        theirs.symlink_to(tmp_path / "away")
    if kind == "link to a run":
        (tmp_path / "away").mkdir()
        (tmp_path / "away" / RECEIPT_FILE).write_text("whole")
        (tmp_path / "qs").mkdir()
        (tmp_path / "qs" / RECEIPT_FILE).write_text("whole")
    with pytest.raises(CannotCreate, match=r"qs\.previous") as caught:
        quickstart(output=tmp_path / "qs", force=True)
    assert caught.value.code == "quickstart.not_ours"
    assert theirs.is_symlink() or theirs.read_text() == "theirs"
    assert (tmp_path / "away" / RECEIPT_FILE).exists() == (kind == "link to a run")
    assert not no_work


def test_an_output_that_is_a_link_stays_one(tmp_path, no_work):
    (tmp_path / "disk").mkdir()
    (tmp_path / "qs").symlink_to(tmp_path / "disk" / "run")
    quickstart(output=tmp_path / "qs")
    quickstart(output=tmp_path / "qs", force=True)
    assert (tmp_path / "qs").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "disk" / "run").iterdir()] == [RECEIPT_FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "qs"]


def test_our_own_previous_needs_force(tmp_path, no_work):
    kept = tmp_path / "qs.previous"
    kept.mkdir()
    (kept / RECEIPT_FILE).write_text("whole")
    with pytest.raises(CannotCreate) as caught:
        quickstart(output=tmp_path / "qs")
    assert caught.value.code == "io.exists" and kept.exists()
    quickstart(output=tmp_path / "qs", force=True)
    assert not kept.exists() and (tmp_path / "qs" / RECEIPT_FILE).read_text() == "new"


def test_a_run_that_was_replaced_goes_once_the_new_one_is_whole(tmp_path, no_work):
    quickstart(output=tmp_path / "qs")
    quickstart(output=tmp_path / "qs", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["qs"]


def test_a_previous_that_came_during_the_run_is_left_alone(tmp_path, monkeypatch):
    theirs = tmp_path / "qs.previous"
    monkeypatch.setattr(workflow, "_quickstart", lambda *given: theirs.mkdir() or {})
    quickstart(output=tmp_path / "qs")
    assert theirs.exists()


@pytest.mark.parametrize("minutes", ["inf", "nan", "-inf", "0", "-1", "1e307", "1e9"])
def test_minutes_that_are_no_budget_are_refused_before_any_work(tmp_path, no_work, minutes):
    with pytest.raises(ConfigError, match="`minutes` is") as caught:
        quickstart(output=tmp_path / "qs", minutes=float(minutes))
    assert caught.value.code == "train.config_value"
    assert not no_work and not list(tmp_path.iterdir())
