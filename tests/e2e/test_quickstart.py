"""The main job at a size that fits a test: every stage for real, only shorter."""

import json
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from bitnet_jax.core.errors import CannotCreate, CheckFailed
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.quant.digest import digest
from bitnet_jax.runtime.model import load
from bitnet_jax.train.config import DataConfig, ModelConfig
from bitnet_jax.workflows.quickstart import quickstart, recipe
from bitnet_jax.workflows.receipt import prove
from bitnet_jax.workflows.train import MODEL_FILE


@pytest.fixture(scope="module")
def small():
    return replace(
        recipe(seed=1),
        minutes=None,
        steps=12,
        batch=4,
        length=64,
        eval_windows=8,
        model=ModelConfig(vocab_size=512, hidden_size=256, intermediate_size=256, num_layers=2),
        data=DataConfig(max_bytes=600_000),
    )


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    return folder, quickstart(folder, config=small)


def test_the_record_holds_the_promised_names(made):
    folder, record = made
    names = {
        "heldout_loss", "unigram_entropy", "max_logit_difference", "median_logit_difference",
        "top1_agreement", "decode_tokens_per_second", "bits_per_weight", "files",
    }  # fmt: skip
    assert names <= record.keys()
    assert record["digest"].keys() == {"training", "file", "kernel"}
    assert 2.0 <= record["bits_per_weight"] < 2.01
    assert record["decode_tokens_per_second"] > 0
    assert all((folder / name).exists() for name in ("model.bitnet", "huggingface/config.json"))
    assert json.loads((folder / "receipt.json").read_text())["digest"] == record["digest"]


def test_twelve_steps_learn_something(made):
    _, record = made
    lines = [json.loads(line) for line in (made[0] / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.2
    assert record["heldout_loss"] < losses[0]


def test_one_digest_everywhere(made):
    folder, record = made
    found = {json.dumps(value, sort_keys=True) for value in record["digest"].values()}
    found |= {
        json.dumps(open_checkpoint(folder / name).digest().to_json(), sort_keys=True)
        for name in ("model.bitnet", "huggingface")
    }
    assert len(found) == 1


def flip_one_trit(model):
    name = "layers.1.mlp.up_proj"
    quant = model.packed.leaves[name]
    codes = np.array(quant.codes)
    low = codes[0, 0, 0] & 3
    codes[0, 0, 0] = (codes[0, 0, 0] & 0xFC) | (low + 1) % 3
    fields = vars(quant) | {"codes": jnp.asarray(codes)}
    model.packed.leaves[name] = type(quant)(**fields)


def test_a_trit_flipped_after_loading_fails_the_receipt(made, small):
    from bitnet_jax.train.checkpoint import read_host, resolve
    from bitnet_jax.workflows.train import prepare_scratch

    folder, _ = made
    prepared = prepare_scratch(small)
    assert read_host(resolve(folder)).step == 12
    params = _params_of(folder, small, prepared)
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    model = load(folder / MODEL_FILE)
    good = prove(params, prepared.spec, folder / MODEL_FILE, model, tokens)
    assert good.holds
    good.require()
    flip_one_trit(model)
    bad = prove(params, prepared.spec, folder / MODEL_FILE, model, tokens)
    assert not bad.digests_equal and not bad.holds
    assert bad.training == bad.file != bad.kernel
    assert bad.parity.max_logit_difference > good.parity.max_logit_difference
    with pytest.raises(CheckFailed, match="the trits differ"):
        bad.require()


def _params_of(folder, small, prepared):
    from bitnet_jax.train.checkpoint import resolve, restore
    from bitnet_jax.train.step import init_state

    state, _ = restore(resolve(folder), init_state(prepared.params, small.optimizer))
    return state.params


def test_the_saved_state_digests_as_the_file(made, small):
    from bitnet_jax.workflows.receipt import live_digest
    from bitnet_jax.workflows.train import prepare_scratch

    folder, record = made
    prepared = prepare_scratch(small)
    live = live_digest(_params_of(folder, small, prepared), prepared.spec)
    assert live.to_json() == record["digest"]["file"]
    assert digest(load(folder / MODEL_FILE).packed.ternary()) == live


def test_an_existing_folder_is_left_alone(made, small, tmp_path):
    folder, _ = made
    with pytest.raises(CannotCreate, match="exists"):
        quickstart(folder, config=small)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    with pytest.raises(CannotCreate, match="not made by quickstart"):
        quickstart(other, config=small, force=True)
    assert (other / "chapter.txt").read_text() == "mine"


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_file(made, small, tmp_path):
    folder, record = made
    again = quickstart(tmp_path / "again", config=small)
    assert (tmp_path / "again" / MODEL_FILE).read_bytes() == (folder / MODEL_FILE).read_bytes()
    assert again["heldout_loss"] == record["heldout_loss"]
    shutil.rmtree(tmp_path / "again")
