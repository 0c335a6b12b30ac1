"""Which folders a run may be written into, and what a refused start leaves there."""

from __future__ import annotations

import shutil

import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData, BitnetError, CannotCreate
from bitnet_jax.workflows.train import _check_start
from tests.thin import mostly_heavy

RECIPE = """
steps: 1
batch: 1
length: 8
eval_windows: 1
data: {paths: [a.txt, b.txt]}
model: {vocab_size: 272, hidden_size: 128, intermediate_size: 128, num_layers: 1,
        num_heads: 2, num_kv_heads: 2, head_dim: 64, max_positions: 4096}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(" ".join(f"{name} word {n}" for n in range(300)))
    (tmp_path / "r.yaml").write_text(RECIPE)
    long = RECIPE.replace("length: 8", "length: 400").replace(", b.txt", "")
    (tmp_path / "long.yaml").write_text(long)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole run, made once."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(" ".join(f"{name} word {n}" for n in range(300)))
        (folder / "r.yaml").write_text(RECIPE)
        bj.train_start("r.yaml", "run")
    return folder / "run"


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(code, *given, **named) -> BitnetError:
    with pytest.raises(BitnetError) as caught:
        bj.train_start(*given, **named)
    assert caught.value.code == code
    return caught.value


def test_a_resumed_run_overwrites_no_other_folder(trained, place):
    (place / "other").mkdir()
    (place / "other" / "config.yaml").write_text("somebody's")
    before = files(place / "other")
    error = refused("train.run_exists", "r.yaml", "other", resume_from=trained)
    assert isinstance(error, CannotCreate) and "--resume-from" not in error.hint
    assert files(place / "other") == before


def test_a_resumed_run_may_name_itself_or_an_empty_folder(trained, place):
    (place / "empty").mkdir()
    (place / "link").symlink_to(trained)
    for output in (trained, place / "link", place / "empty", place / "new", None):
        for resumed in (trained, trained / "checkpoints", trained / "checkpoints" / "1"):
            _check_start(output, resumed)


def test_a_run_goes_on_in_another_folder(trained, place):
    (place / "two.yaml").write_text(RECIPE.replace("steps: 1", "steps: 2"))
    before = files(trained)
    record = bj.train_start("two.yaml", "second", resume_from=trained)
    assert record["step"] == 2 and (place / "second" / "checkpoints" / "2").is_dir()
    assert files(trained) == before


def test_a_refused_start_leaves_its_folder_free(place):
    error = refused("train.heldout_too_small", "long.yaml", "run")
    assert isinstance(error, BadData) and files(place / "run") == {}
    assert bj.train_start("r.yaml", "run")["step"] == 1
    assert "length: 8" in (place / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    "when", mostly_heavy(["before it compiles", "once it has compiled"], ["before it compiles"])
)
def test_a_run_that_ends_while_it_compiles_leaves_its_folder_free(place, monkeypatch, when):
    from bitnet_jax.train import loop

    compiled = loop.compile_programs

    def killed(*given):
        if when == "once it has compiled":
            compiled(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_programs", killed)
        with pytest.raises(KeyboardInterrupt):
            bj.train_start("r.yaml", "run")
    assert list((place / "run").iterdir()) == []
    assert bj.train_start("r.yaml", "run")["step"] == 1
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert "compiled" in lines[0] and '"step": 1' in "".join(lines)


def test_a_refused_resumption_leaves_the_runs_recipe(trained, place):
    run = shutil.copytree(trained, place / "run")
    before = files(run)
    refused("train.heldout_too_small", "long.yaml", resume_from=run)
    wider = RECIPE.replace("intermediate_size: 128", "intermediate_size: 256")
    (place / "wider.yaml").write_text(wider)
    with pytest.raises(BitnetError):
        bj.train_start("wider.yaml", resume_from=run)
    assert files(run) == before


def test_the_hint_names_resuming_only_where_there_is_a_checkpoint(trained, place):
    (place / "cut").mkdir()
    (place / "cut" / "metrics.jsonl").write_text("")
    assert "--resume-from" not in refused("train.run_exists", "r.yaml", "cut").hint
    assert "--resume-from" in refused("train.run_exists", "r.yaml", trained).hint
