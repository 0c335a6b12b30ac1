"""Editing: what a model says of itself changes, and not one byte of its weights."""

from __future__ import annotations

import json

import pytest

from bitnet_jax.analysis.diff import diff
from bitnet_jax.containers.native import open_native
from bitnet_jax.core.errors import BadData, CannotCreate, NoInput, UsageError
from bitnet_jax.formats.create import create, save_created
from bitnet_jax.formats.edit import KNOWN, edited
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.workflows.edit import edit

MODEL = create("tiny", layers=1)
NAMES = {"bitnet": "m.bitnet", "huggingface": "m.hf"}


@pytest.fixture(params=NAMES)
def model(request, tmp_path):
    path = tmp_path / NAMES[request.param]
    save_checkpoint(MODEL, path)
    return path


def weights(path):
    """Every weight's bytes, by name."""
    if path.is_dir():
        return {f.name: f.read_bytes() for f in path.glob("*.safetensors")}
    file = open_native(path)
    names = [*file.rows, *file.floats, "__scales__"]
    return {name: file.safetensors.read_bytes(name).tobytes() for name in names}


def out(model):
    return model.with_name(f"edited{model.suffix}")


SETS = {
    "general.name": "Tiny",
    "general.license": "mit",
    "general.version": "1.0",  # a text, as it was given
    "eos_token_ids": "257,5",
    "pad_token_id": "3",
    "generation.temperature": "0.25",
    "generation.stop_strings": '["a"]',
    "tokenizer.eos_token": "<|eot_id|>",
}


def test_everything_that_can_be_edited_and_nothing_else_changes(model):
    record = edit(model, out(model), entries=SETS)
    assert record["digest_before"] == record["digest_after"]
    assert weights(model) == weights(out(model))
    again = open_checkpoint(out(model))
    assert again.metadata == {k: v for k, v in SETS.items() if k.startswith("general.")}
    assert again.spec.eos_token_ids == (257, 5) and again.spec.pad_token_id == 3
    assert again.tokenizer.generation["temperature"] == 0.25
    assert again.tokenizer.generation["eos_token_id"] == [257, 5]  # both say the same
    assert again.tokenizer.config["eos_token"] == "<|eot_id|>"
    found = diff(model, out(model))["differences"]
    assert {row["part"] for row in found} == {"spec", "metadata", "generation", "tokenizer"}
    assert {change["key"] for change in record["changes"]} == set(SETS)


def test_set_and_removed_again_is_the_same_file(model, tmp_path):
    edit(model, out(model), entries={"general.name": "Tiny", "generation.top_k": "4"})
    back = tmp_path / f"back{model.suffix}"
    edit(out(model), back, remove=["general.name", "generation.top_k"])
    assert diff(model, back)["equal"]
    if model.is_file():
        assert back.read_bytes() == model.read_bytes()


def test_metadata_travels_between_formats(model, tmp_path):
    edit(model, out(model), entries={"general.name": "Tiny"})
    other = tmp_path / ("other.hf" if model.is_file() else "other.bitnet")
    save_checkpoint(open_checkpoint(out(model)), other)
    assert open_checkpoint(other).metadata == {"general.name": "Tiny"}


def test_a_template_is_put_in_and_taken_out(model, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    edit(model, out(model), chat_template=template)
    assert open_checkpoint(out(model)).tokenizer.chat_template == template.read_text()
    edit(out(model), tmp_path / f"b{model.suffix}", remove=["tokenizer.chat_template"])
    assert open_checkpoint(tmp_path / f"b{model.suffix}").tokenizer.chat_template is None


def test_a_template_that_does_not_work_is_refused(model, tmp_path):
    (tmp_path / "bad.jinja").write_text("{% for m in messages %}")
    with pytest.raises(BadData) as caught:
        edit(model, out(model), chat_template=tmp_path / "bad.jinja")
    assert caught.value.code == "chat.template" and not out(model).exists()
    (tmp_path / "latin.jinja").write_bytes(b"\xff")
    with pytest.raises(BadData, match="UTF-8"):
        edit(model, out(model), chat_template=tmp_path / "latin.jinja")
    with pytest.raises(NoInput):
        edit(model, out(model), chat_template=tmp_path / "none.jinja")


def test_other_keys_and_files_of_a_folder_stay(tmp_path):
    save_created(MODEL, tmp_path / "m.hf")
    (tmp_path / "m.hf" / "LICENSE").write_text("theirs")
    (tmp_path / "m.hf" / "README.md").write_text("mine")
    (tmp_path / "m.hf" / "receipt.json").write_text("{}")
    before = json.loads((tmp_path / "m.hf" / "config.json").read_text())
    edit(tmp_path / "m.hf", tmp_path / "e.hf", entries={"eos_token_ids": "5"})
    after = json.loads((tmp_path / "e.hf" / "config.json").read_text())
    assert after == before | {"eos_token_id": 5} and "auto_map" in after
    assert (tmp_path / "e.hf" / "LICENSE").read_text() == "theirs"
    assert (tmp_path / "e.hf" / "README.md").read_text() == "mine"
    assert not (tmp_path / "e.hf" / "receipt.json").exists()


def test_our_own_card_follows(tmp_path):
    save_checkpoint(MODEL, tmp_path / "m.hf", format="huggingface")
    edit(tmp_path / "m.hf", tmp_path / "e.hf", entries={"general.name": "Tiny|One"})
    assert "# Tiny|One\n" in (tmp_path / "e.hf" / "README.md").read_text()


@pytest.mark.parametrize(
    ("entries", "removed", "code"),
    [
        ({"hidden_size": "3"}, (), "edit.meaning"),
        ({"spec.rope_theta": "3"}, (), "edit.meaning"),
        ({"rms_norm_eps": "1"}, (), "edit.meaning"),
        ({}, ("num_layers",), "edit.meaning"),
        ({"genral.name": "a"}, (), "edit.key"),
        ({"general.": "a"}, (), "edit.key"),
        ({"general.Name": "a"}, (), "edit.value"),
        ({"general.name": "x" * 70000}, (), "edit.value"),
        ({"general.name": "a"}, ("general.name",), "edit.key"),
        ({}, ("general.name",), "edit.absent"),
        ({"eos_token_ids": "a"}, (), "edit.value"),
        ({"eos_token_ids": "99999"}, (), "edit.value"),
        ({"eos_token_ids": "257,265"}, (), "edit.nothing"),
        ({"generation.eos_token_id": "1"}, (), "edit.key"),
        ({"generation.a": "{}"}, (), "edit.value"),
        ({"tokenizer.eos_token": "no such"}, (), "edit.value"),
        ({}, (), "edit.nothing"),
    ],
)
def test_what_is_refused(entries, removed, code):
    with pytest.raises(UsageError) as caught:
        edited(MODEL, entries, removed)
    assert caught.value.code == code


def test_a_hint_names_the_nearest_key():
    with pytest.raises(UsageError) as caught:
        edited(MODEL, {"general_name": "a"})
    assert "general.name" in caught.value.hint
    assert "general.name" in KNOWN


def test_without_a_tokenizer_there_are_no_generation_settings(tmp_path):
    from dataclasses import replace

    with pytest.raises(UsageError) as caught:
        edited(replace(MODEL, tokenizer=None), {"generation.temperature": "1"})
    assert caught.value.code == "model.no_tokenizer"


def test_nothing_is_overwritten_and_the_input_is_not_the_output(model):
    save_checkpoint(MODEL, out(model))
    with pytest.raises(CannotCreate):
        edit(model, out(model), entries={"general.name": "a"})
    with pytest.raises(CannotCreate):
        edit(model, model, entries={"general.name": "a"}, force=True)
    edit(model, out(model), entries={"general.name": "a"}, force=True)


@pytest.mark.parametrize(
    "raw", [[], {"name": "x"}, {"general.A": "x"}, {"general.a": [1]}, {"general.a": None}, "x"]
)
def test_metadata_that_is_none_is_refused(tmp_path, raw):
    save_checkpoint(MODEL, tmp_path / "m.hf", format="huggingface")
    config = json.loads((tmp_path / "m.hf" / "config.json").read_text())
    (tmp_path / "m.hf" / "config.json").write_text(json.dumps(config | {"model_metadata": raw}))
    with pytest.raises(BadData) as caught:
        open_checkpoint(tmp_path / "m.hf")
    assert caught.value.code == "model.metadata"
