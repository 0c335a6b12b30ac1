"""`diff`: equal across formats, and every sort of difference told with its place."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from bitnet_jax.analysis.diff import diff
from bitnet_jax.formats.checkpoint import TensorEntry
from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.quant.kinds import KINDS
from bitnet_jax.quant.tensor import from_codes
from bitnet_jax.quant.ternary import from_trits

MODEL = create("tiny", layers=1)
UP = "layers.0.mlp.up_proj"


@pytest.fixture
def first(tmp_path):
    save_checkpoint(MODEL, tmp_path / "a.bitnet")
    return tmp_path / "a.bitnet"


def found(first, model):
    other = first.with_name("b.bitnet")
    save_checkpoint(model, other, force=True)
    return diff(first, other)


def with_tensor(name, value):
    entry = MODEL.entries[name]
    made = TensorEntry(name, entry.shape, entry.dtype, entry.ternary, lambda: value)
    return replace(MODEL, entries={**MODEL.entries, name: made})


@pytest.mark.parametrize("encoding", ["packed", "bitlinear", "master"])
def test_the_same_model_in_another_format(first, tmp_path, encoding):
    save_checkpoint(MODEL, tmp_path / "b.hf", format="huggingface", encoding=encoding)
    record = diff(first, tmp_path / "b.hf")
    assert record["equal"] and record["differences"] == []
    assert {row["name"] for row in record["stored"]} >= {"format"}
    assert record["digest"]["first"] == record["digest"]["second"]


def test_one_trit(first):
    tensor = MODEL.read(UP)
    trits = np.array(tensor.trits())
    was = int(trits[5, 7])
    trits[5, 7] = -1 if was != -1 else 1
    made = from_trits(trits, tensor.scale, scale_dtype="bfloat16", dtype="bfloat16")
    record = found(first, with_tensor(UP, made))
    (row,) = record["differences"]
    assert (row["name"], row["what"], row["changed"], row["at"]) == (UP, "trits", 1, [5, 7])
    assert (row["first"], row["second"]) == (was, int(trits[5, 7])) and not record["equal"]
    assert record["counts"] == {"tensor": 1}


def test_one_unit_in_the_last_place_of_a_scale(first):
    tensor = MODEL.read(UP)
    scale = np.nextafter(np.asarray(tensor.scale, np.float32), np.float32(9))
    (row,) = found(first, with_tensor(UP, replace(tensor, scale=scale)))["differences"]
    assert (row["what"], row["ulps"], row["changed"]) == ("scale", 1, 1)


def test_one_value_of_the_embedding_beyond_the_first_rows(first):
    table = np.array(MODEL.read("embed_tokens"))
    table[300, 9] = np.asarray(3, ml_dtypes.bfloat16)
    (row,) = found(first, with_tensor("embed_tokens", table))["differences"]
    assert (row["what"], row["at"], row["changed"]) == ("values", [300, 9], 1)
    assert row["second"] == 3.0


def test_nan_in_the_same_place_is_no_difference(tmp_path):
    weight = np.array(MODEL.read("norm"))
    weight[3] = np.nan
    for name in ("a.bitnet", "b.bitnet"):
        save_checkpoint(with_tensor("norm", weight), tmp_path / name)
    assert diff(tmp_path / "a.bitnet", tmp_path / "b.bitnet")["equal"]


def test_the_same_values_stored_wider_are_no_difference(first):
    wide = np.asarray(MODEL.read("norm")).astype(np.float32)
    model = with_tensor("norm", wide)
    entry = replace(model.entries["norm"], dtype="float32")
    model = replace(model, entries={**model.entries, "norm": entry})
    record = found(first, model)
    assert record["equal"]
    assert {"name": "norm", "first": "bfloat16", "second": "float32"} in record["stored"]


def test_another_spec_and_absent_tensors(first):
    record = found(first, create("tiny", layers=2))
    parts = {(row["part"], row["what"]) for row in record["differences"]}
    assert ("spec", "value") in parts and ("tensor", "only in the second") in parts
    only = [row for row in record["differences"] if row["what"] == "only in the second"]
    assert all(row["name"].startswith("layers.1.") for row in only) and len(only) == 11


def test_the_tokenizer(first):
    files = MODEL.tokenizer
    parsed = json.loads(files.tokenizer_json)
    spaced = json.dumps(parsed, indent=1).encode()
    assert found(first, replace(MODEL, tokenizer=replace(files, tokenizer_json=spaced)))["equal"]
    first.with_name("b.bitnet").unlink()
    vocabulary = parsed["model"]["vocab"]
    one, two = list(vocabulary)[7:9]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    parsed["pre_tokenizer"] = None
    changed = json.dumps(parsed).encode()
    template = files.chat_template.replace("capitalize", "title")
    config = {name: value for name, value in files.config.items() if name != "chat_template"}
    other = replace(files, tokenizer_json=changed, config=config, chat_template=template)
    rows = {r["name"]: r for r in found(first, replace(MODEL, tokenizer=other))["differences"]}
    assert rows["model.vocab"]["differing"] == 2 and rows["model.vocab"]["at"] in (one, two)
    assert rows["pre_tokenizer"]["second"] is None
    assert "capitalize" in rows["chat_template"]["first"]
    first.with_name("b.bitnet").unlink()
    (row,) = found(first, replace(MODEL, tokenizer=None))["differences"]
    assert row["what"] == "only in the first"


def with_codes(kind, codes, scale):
    made = from_codes(codes, scale, kind=kind, dtype="bfloat16")
    return with_tensor(UP, made)


@pytest.mark.parametrize("kind", ["int4", "int6", "int8"])
def test_codes_of_integer_kinds(tmp_path, kind):
    high = KINDS[kind].high
    shape = MODEL.entries[UP].shape
    codes = np.random.default_rng(0).integers(-high, high + 1, shape).astype(np.int8)
    scale = np.float32(0.25)
    first = tmp_path / "a.bitnet"
    save_checkpoint(with_codes(kind, codes, scale), first)
    assert found(first, with_codes(kind, codes, scale))["equal"]
    was, codes[2, 3] = int(codes[2, 3]), 1 - int(codes[2, 3] == 1)
    record = found(first, with_codes(kind, codes, scale * 2))
    row, scales = record["differences"]
    assert (row["name"], row["what"], row["changed"], row["at"]) == (UP, "codes", 1, [2, 3])
    assert (row["first"], row["second"]) == (was, int(codes[2, 3]))
    assert (scales["what"], scales["first"], scales["second"]) == ("scale", 0.25, 0.5)


def test_kinds_have_their_names(tmp_path):
    codes = np.zeros(MODEL.entries[UP].shape, np.int8)
    first, floats = tmp_path / "a.bitnet", tmp_path / "f.bitnet"
    save_checkpoint(with_codes("int4", codes, np.float32(1)), first)
    entry = replace(MODEL.entries[UP], ternary=False, dtype="float32")
    entry = replace(entry, read=lambda: np.zeros(codes.shape, np.float32))
    save_checkpoint(replace(MODEL, entries={**MODEL.entries, UP: entry}), floats)
    (row,) = diff(floats, first)["differences"]
    assert (row["what"], row["first"], row["second"]) == ("kind", "float32", "int4")
    (row,) = found(first, MODEL)["differences"]
    assert (row["what"], row["first"], row["second"]) == ("kind", "int4", "ternary")


@pytest.mark.parametrize("text", [b"", b"[]", b"{"])
def test_a_tokenizer_that_is_none_is_told_as_one(first, text):
    tokenizer = replace(MODEL.tokenizer, tokenizer_json=text)
    (row,) = found(first, replace(MODEL, tokenizer=tokenizer))["differences"]
    assert (row["name"], row["second"]) == ("tokenizer.json", "no JSON object")
