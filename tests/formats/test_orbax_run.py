"""Checkpoints of our own runs as models: what the run would have packed there, by its rules."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.tokenizer_files import to_files
from bitnet_jax.models.families import family_for
from bitnet_jax.models.names import expected
from bitnet_jax.quant.rules import Rule
from bitnet_jax.train import checkpoint as run_checkpoint
from bitnet_jax.train.config import OptimizerConfig
from bitnet_jax.train.data import DataState
from bitnet_jax.train.schedule import Plan
from bitnet_jax.train.step import init_state
from tests.tiny import tiny_spec

SPEC = tiny_spec(vocab_size=272, num_layers=1, bos_token_id=256, eos_token_ids=(257,))
OWN = tuple(family_for(SPEC).rules)


def plain(rule):
    return {**asdict(rule), "stack": list(rule.stack)}


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {name: item.shape for name, item in expected(SPEC).items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def saved(folder, params, rules=OWN, spec=SPEC, step=5):
    """A step as a run writes it."""
    told = None if rules is None else [plain(rule) for rule in rules]
    host = run_checkpoint.HostState(
        step, DataState(0), Plan(((0, 10),)), None if spec is None else spec.to_json(), told
    )
    return run_checkpoint.save(folder / "checkpoints", init_state(params, OptimizerConfig()), host)


def packed(params, rules):
    family = family_for(SPEC)
    made = bj.pack(family.forward(SPEC), dict(params), rules, np.zeros((1, 2), np.int32))
    source = Source("training", "training", "latent")
    return checkpoint_of(SPEC, made.leaves, None, source)


GROUPS = (Rule("**.*_proj", scale="group-16", scale_dtype="float32"),)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(OWN, id="the family's rules"),
        pytest.param(GROUPS, id="rules of a recipe", marks=pytest.mark.heavy),
    ],
)
def test_a_step_is_what_the_run_would_have_packed(tmp_path, params, rules):
    step = saved(tmp_path, params, rules)
    (tmp_path / "config.yaml").write_text("steps: 10\n")
    for name, data in to_files(make_tokenizer(SPEC)).items():
        (tmp_path / name).write_bytes(data)
    wanted = packed(params, rules)
    for path in (step, tmp_path / "checkpoints", tmp_path):
        found = open_checkpoint(path)
        assert found.digest() == wanted.digest() and found.spec == SPEC
        assert (found.source.format, found.source.encoding) == ("orbax", "latent")
        assert found.tokenizer == make_tokenizer(SPEC) and not found.warnings
    for name, value in found.latent().items():
        np.testing.assert_array_equal(value, np.asarray(params[name]))
    assert "../../tokenizer.json" in open_checkpoint(step).source.detail["files"]


def refused(path, code):
    with pytest.raises(BadData) as caught:
        open_checkpoint(path)
    assert caught.value.code == code, caught.value


def test_what_does_not_fit_its_own_host_part_is_refused(tmp_path, params):
    step = saved(tmp_path, params)
    file = step / "host" / "metadata"
    good = json.loads(file.read_text())

    def changed(**changes):
        file.write_text(json.dumps({**good, **changes}))
        return step

    refused(changed(format=2), "orbax.run")
    refused(changed(spec=None), "orbax.no_spec")
    refused(changed(leaves={}), "orbax.run")
    refused(changed(rules=[{"path": 3}]), "orbax.run")
    bent = dict.fromkeys(good["leaves"], ["float32", 1])
    refused(changed(leaves=bent), "model.tensor_shape")
    wider = {**good["spec"], "hidden_size": 64}
    refused(changed(spec=wider), "model.tensor_shape")


def test_an_older_step_is_read_by_the_familys_rules_and_that_is_said(tmp_path, params):
    found = open_checkpoint(saved(tmp_path, params, rules=None))
    assert "the family's" in found.warnings[0] and "token ids only" in found.warnings[1]
    assert found.digest() == packed(params, OWN).digest()


@pytest.mark.heavy
def test_a_real_run(tmp_path, monkeypatch):
    """Trained by a recipe; its last step, converted, is its model.bitnet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(" ".join(f"word {n}" for n in range(300)))
    (tmp_path / "b.txt").write_text(" ".join(f"other {n}" for n in range(300)))
    (tmp_path / "r.yaml").write_text(
        "steps: 2\nbatch: 1\nlength: 8\neval_windows: 1\ndata: {paths: [a.txt, b.txt]}\n"
        "model: {vocab_size: 272, hidden_size: 32, intermediate_size: 48, num_layers: 1,\n"
        "        num_heads: 2, num_kv_heads: 2, head_dim: 16, max_positions: 64}\n"
    )
    bj.train_start("r.yaml", "run")
    record = bj.convert("run/checkpoints/2", "m.bitnet")
    one, other = open_checkpoint("m.bitnet"), open_checkpoint("run/model.bitnet")
    assert one.digest() == other.digest() and one.tokenizer == other.tokenizer
    assert record["warnings"] == [] and record["probe"]["holds"]
    found = bj.validate(
        "m.bitnet", receipt="m.receipt.json", source="run/checkpoints/2", probe=False
    )
    assert found["receipt"]["holds"] and found["findings"] == []
