"""`compare`: any two formats, and what cannot be compared is told with the reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitnet_jax.core.errors import UsageError
from bitnet_jax.formats.create import create, save_created
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.quant.tensor import from_codes
from bitnet_jax.workflows.compare import compare, table
from bitnet_jax.workflows.compare_weights import _floats, compare_weights, totals
from bitnet_jax.workflows.model_pair import kl_of

MODEL = create("tiny", layers=1)
ANSWERS = ("accuracy", "size")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    save_checkpoint(MODEL, root / "a.bitnet")
    save_checkpoint(MODEL, root / "a.hf", format="huggingface")
    save_created(create("tiny", layers=1), root / "master.hf", encoding="master")
    save_checkpoint(create("tiny", layers=1, vocab_size=300), root / "small.bitnet")
    (root / "text.txt").write_text("Some text that both of the models read. " * 60)
    return root


def measures(record):
    return {row["measure"]: row for row in record["table"]}


def test_two_formats_of_one_model(folder):
    text = folder / "text.txt"
    record = compare(folder / "a.hf", folder / "a.bitnet", metrics=ANSWERS, text=text, tokens=256)
    rows = measures(record)
    assert rows["trit agreement"]["compared"] == 1.0 and rows["trits changed"]["compared"] == 0
    assert rows["largest scale difference"]["compared"] == 0
    assert rows["KL"]["compared"] == 0 and rows["perplexity"]["compared"] == 1.0
    assert record["words"] == [] and record["not_compared"] == []
    assert record["models"][0]["digest"] == record["models"][1]["digest"]
    assert record["size"][1]["file_bytes"] == (folder / "a.bitnet").stat().st_size
    assert record["accuracy"]["text"]["source"] == str(text)


def test_a_master_beside_its_packed_form(folder):
    record = compare(folder / "a.bitnet", folder / "master.hf", metrics=("size",))
    weights = record["weights"]
    assert weights["trit_agreement"] == 1.0 and weights["scale_ulps"] > 1000
    assert "accuracy" not in record and "KL" not in measures(record)


def test_another_vocabulary(folder):
    text = folder / "text.txt"
    record = compare(folder / "a.bitnet", folder / "small.bitnet", metrics=ANSWERS, text=text)
    rows = measures(record)
    assert rows["trit agreement"]["compared"] == 1.0
    one, two = record["accuracy"]["bits_per_byte"]
    assert 0 < two and 0 < one and "KL" not in rows
    why = {row["what"]: row["why"] for row in record["not_compared"]}
    assert "512 and 300" in why["KL"] and "[512, 64]" in why["`embed_tokens`"]


def test_no_tokenizer_in_either(folder, tmp_path):
    for name in ("a.bitnet", "b.bitnet"):
        save_checkpoint(replace(MODEL, tokenizer=None), tmp_path / name)
    record = compare(tmp_path / "a.bitnet", tmp_path / "b.bitnet", metrics=("accuracy",))
    assert record["accuracy"]["kl"]["value"] == 0 and "perplexity" not in record["accuracy"]
    assert [row["what"] for row in record["not_compared"]] == ["perplexity"]


def test_a_float_model_beside_a_ternary_one_is_ternarized_for_it(folder):
    latent = {name: e.latent() for name, e in MODEL.entries.items() if e.latent is not None}
    entries = {
        name: replace(e, ternary=False, read=lambda v=latent[name]: v) if name in latent else e
        for name, e in MODEL.entries.items()
    }
    rows, about = compare_weights((replace(MODEL, entries=entries), MODEL), [], None)
    ternary = [row for row in rows if row["trits"]]
    assert totals(rows)["trit_agreement"] == 1.0  # a master rounds to exactly its trits
    assert all(row["ternarized"] == ["first"] for row in ternary)
    assert all(0.01 < row["nmse"] < 0.6 for row in ternary)
    assert [row["ternary_parameters"] > 0 for row in about] == [False, True]


def test_kl_of_known_distributions():
    p, q = np.asarray([[0.5, 0.25, 0.25]]), np.asarray([[0.25, 0.25, 0.5]])
    expected = (p * np.log(p / q)).sum()
    assert kl_of(np.log(p) + 3, np.log(q) - 5)[0] == pytest.approx(expected, abs=1e-12)
    assert kl_of(np.log(p), np.log(p))[0] == 0


def test_a_metric_that_is_none(folder):
    with pytest.raises(UsageError, match="accurcy"):
        compare(folder / "a.hf", folder / "a.bitnet", metrics=("accurcy",))


@pytest.mark.heavy
def test_speed_is_measured_in_turns(folder):
    record = compare(folder / "a.hf", folder / "a.bitnet", metrics=("speed",), count=2)
    rows = measures(record)
    for phase in ("prefill", "decode"):
        row = rows[f"{phase}, tokens/s"]
        assert row["first"] > 0 and row["second"] > 0 and row["compared"] > 0
    assert record["speed"]["schema"] == "bench-compare/1"
    assert table(record) == record["table"]


def test_what_no_benchmark_runs_loses_nothing_else(folder):
    save_checkpoint(MODEL, folder / "a.gguf", encoding="f32")
    record = compare(folder / "a.bitnet", folder / "a.gguf", metrics=("size", "speed"))
    assert record["speed"] is None and "speed" in str(record["not_compared"])
    assert measures(record)["trit agreement"]["compared"] == 1.0


def test_integer_kinds_are_compared_as_what_they_stand_for(tmp_path):
    name = "layers.0.mlp.up_proj"
    entry = MODEL.entries[name]
    codes = np.random.default_rng(0).integers(-7, 8, entry.shape).astype(np.int8)

    def model(scale):
        value = from_codes(codes, np.float32(scale), kind="int4", dtype="float32")
        made = replace(entry, ternary=True, read=lambda: value, dtype="float32")
        return replace(MODEL, entries={**MODEL.entries, name: made})

    for scale in (0.25, 0.5):
        save_checkpoint(model(scale), tmp_path / f"{scale}.bitnet")
    record = compare(tmp_path / "0.25.bitnet", tmp_path / "0.5.bitnet", metrics=("size",))
    row = next(row for row in record["tensors"] if row["name"] == name)
    assert (
        not row["equal"] and row["nmse"] == 1.0 and row["difference"] == 0.25 * np.abs(codes).max()
    )
    same = compare(tmp_path / "0.25.bitnet", tmp_path / "0.25.bitnet", metrics=("size",))
    assert same["weights"]["floats_changed"] == 0
    beside = compare(tmp_path / "0.25.bitnet", save(MODEL, tmp_path), metrics=("size",))
    assert beside["weights"]["floats_changed"] == 1


def save(model, folder):
    save_checkpoint(model, folder / "plain.bitnet")
    return folder / "plain.bitnet"


def test_a_parameter_that_is_one_number():
    row = _floats(np.float32(1), np.asarray(np.float32(3)))
    assert row["difference"] == 2.0 and row["nmse"] == 4.0 and not row["equal"]
