"""GGUF from the command line: there and back, looked at, checked, refused."""

from __future__ import annotations

import pytest

from bitnet_jax.formats.save import save_checkpoint
from tests.e2e.terminal import here
from tests.formats import gguf_edit as edit
from tests.formats import gguf_models as made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A `transformers` folder of 256 columns, with squared ReLU, and scales of all kinds."""
    path = tmp_path_factory.mktemp("made")
    model = made.model(made.wide(vocab_size=272, eos_token_ids=(257,)), awkward=True)
    save_checkpoint(model, path / "m.hf", encoding="packed")
    return path


def test_convert_there_and_back_inspect_and_validate(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ("--input", "m.hf", "--output", "m.gguf", "--encoding", "tq2_0", "--json")
    there = here("model", "convert", *words)
    record = there.data
    assert record["digest_before"] == record["digest_after"] and record["scales_changed"] == []
    assert record["max_logit_difference"] == 0 and record["encoding"] == "tq2_0"
    assert any("squared ReLU" in str(warning) for warning in there.envelope["warnings"])
    seen = here("model", "inspect", "m.gguf", "--show-layers", "--json").data
    assert seen["digest"] == record["digest_before"]
    checked = here("model", "validate", "--input", "m.gguf", "--check-weights", "--json").data
    assert not [f for f in checked["findings"] if f["severity"] == "error"]
    back = here("model", "convert", "-i", "m.gguf", "-o", "back.hf", "--json").data
    assert back["digest_after"] == record["digest_before"]

    def flip(raw) -> None:
        raw[0] ^= 1 if raw[0] & 3 == 0 else raw[0] & 3

    edit.tensor(folder / "m.gguf", "blk.0.ffn_up.weight", flip)
    broken = here("model", "validate", "m.gguf")
    assert broken.rc == 1 and "digest.mismatch" in broken.out + broken.err


def test_what_cannot_be_written_is_said_with_what_can(folder, monkeypatch):
    monkeypatch.chdir(folder)
    ended = here("model", "convert", "m.hf", "-o", "x.gguf", "-E", "q8_0")
    ended.refused(73, "gguf.encoding")
    here("model", "convert", "m.hf", "-o", "x.gguf", "-E", "tq3").refused(2, "format.encoding")
    (folder / "cut.gguf").write_bytes(b"GGUF" + bytes(20))
    here("model", "inspect", "cut.gguf").refused(65, "gguf.version")
    assert not (folder / "x.gguf").exists()
