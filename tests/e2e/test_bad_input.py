"""Whatever is passed as a model, every command that reads one says what is wrong, and stops.

The error has a stable code, a hint where something can be done, and the exit code of its
kind; nothing is run, nothing is written, and what stood there stands as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.bad_models import CASES, OWN, Case, bitnet_bytes, good_folder, plant_nan
from tests.e2e.terminal import Ended, Folder, here, spawn
from tests.formats.checkpoints import AUTO, config, tensors, write

RECIPE = "steps: 1\nbatch: 1\nlength: 8\ndata: {max_bytes: 20000}\n"

# What `train qat` says of a model of these tests before it reads a tensor.
UNTRAINABLE = {"model.no_latent", "model.no_tokenizer"}

# Every command that reads a model: its words, less the path.
COMMANDS = {
    "inspect": ("model", "inspect", "-i"),
    "convert": ("model", "convert", "-o", "out.bitnet", "-i"),
    "convert hf": ("model", "convert", "-o", "out", "-f", "huggingface", "--force", "-i"),
    "generate": ("serve", "generate", "-p", "hi", "-n", "1", "-m"),
    "chat": ("serve", "chat", "-p", "hi", "-n", "1", "-m"),
    "qat": ("train", "qat", "-c", "../recipe.yaml", "-o", "run", "-m"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to stand in, and the recipe above it."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def words_of(case: Case, ended: Ended) -> None:
    assert case.words in ended.err, ended.err
    if case.rc == 65:
        assert ended.hint or case.code in NO_HINT, f"{case.code} has no hint"


# Nothing can be done about these but what the message says.
NO_HINT = {"file.wrong_kind", "safetensors.metadata", "config.unsupported", "config.value"}


@pytest.mark.parametrize("name", CASES)
def test_refused_by_every_command_and_nothing_is_touched(name, place):
    case = CASES[name]
    path = case.make(place)
    folder, began = Folder(place), time.monotonic()
    for command, argv in COMMANDS.items():
        ended = here(*argv, path)
        if command == "qat" and ended.code in UNTRAINABLE:
            continue
        words_of(case, ended.refused(case.rc, case.code))
        assert ended.out == ""
    in_json = here("model", "inspect", path, "--json").refused(case.rc, case.code)
    assert in_json.envelope["data"] == {}
    said = here("model", "validate", path, "--json")
    if case.told:
        said.refused(1, "model.validate_failed")
        findings = said.envelope["data"]["findings"]
        assert case.code in {finding["code"] for finding in findings}
        assert all(finding["fix"] and finding["message"] for finding in findings)
    else:
        said.refused(case.rc, case.code)
    folder.check_untouched()
    assert time.monotonic() - began < 30


PROCESSES = ["missing", "FIFO", "folder of pickles", "bitnet, one bit of a weight",
             "loop of links", "missing shard"]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PROCESSES)
def test_as_a_real_process(name, place):
    case = OWN[name]
    path = case.make(place)
    folder = Folder(place)
    ended = spawn("model", "convert", path, "-o", "out.bitnet", cwd=place)
    words_of(case, ended.refused(case.rc, case.code))
    assert ended.out == ""
    folder.check_untouched()


def test_an_unknown_architecture_lists_the_known(place):
    path = good_folder(place, architectures=["MambaForCausalLM"])
    ended = here("model", "inspect", path).refused(65, "model.unknown_architecture")
    assert "MambaForCausalLM" in ended.err and "BitNetForCausalLM" in ended.err


def test_a_model_id_that_is_nowhere_is_not_fetched(place, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(place))
    ended = here("model", "inspect", "microsoft/bitnet-b1.58-2B-4T")
    assert "hf://microsoft/bitnet-b1.58-2B-4T" in ended.refused(66, "model.not_found").hint
    assert "local Hugging Face cache" in ended.err


@pytest.fixture
def twin(place):
    """A small model spelled like the released one, which names code of its own."""
    path = place / "twin"
    assert here("model", "create", "tiny", "-l", "1", "-o", path, "-E", "master").rc == 0
    return path


def test_auto_map_is_ignored_and_said_and_the_model_works(twin, place):
    (twin / "modeling_bitnet.py").write_text("open('canary', 'w')\n")
    folder = Folder(twin)
    for argv in (("model", "inspect"), ("model", "convert", "-o", "out.bitnet")):
        ended = here(*argv, twin)
        assert ended.rc == 0 and ended.err.startswith("warning: ")
        assert "auto_map" in ended.err and "never imported" in ended.err
    warnings = here("model", "inspect", twin, "--json").envelope["warnings"]
    assert any("auto_map" in warning for warning in warnings)
    folder.check_untouched()
    assert not (place / "canary").exists()


def test_a_broken_tokenizer_stops_text_and_nothing_else(twin):
    (twin / "tokenizer.json").write_text('{"version": "1.0"}')
    assert here("model", "inspect", twin).rc == 0
    for command in ("generate", "chat"):
        ended = here(*COMMANDS[command], twin)
        assert ended.rc == 65 and ended.code.startswith("tokenizer."), ended.err
    findings = here("model", "validate", twin, "--json").data["findings"]
    assert {finding["code"] for finding in findings} == {"tokenizer.invalid"}


def test_a_master_with_a_nan_is_not_trained_on(twin, place):
    plant_nan(twin / "model.safetensors", "model.layers.0.mlp.up_proj.weight")
    for command in ("inspect", "generate", "qat"):
        here(*COMMANDS[command], twin).refused(65, "tensor.not_finite")
    assert not (place / "run").exists()


def test_without_a_tokenizer_text_is_refused_with_what_to_do(place):
    path = good_folder(place)
    ended = here(*COMMANDS["generate"], path)
    assert "tokenizer.json" in ended.refused(2, "model.no_tokenizer").hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads what no one may")
def test_a_file_that_may_not_be_read(place):
    path = place / "m.bitnet"
    path.write_bytes(bitnet_bytes())
    path.chmod(0)
    for argv in COMMANDS.values():
        here(*argv, path).refused(77, "io.permission")


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(place):
    from bitnet_jax.formats.open import open_checkpoint

    path = place / "m.bitnet"
    path.write_bytes(bitnet_bytes())
    opened = open_checkpoint(path)
    wanted = here("model", "inspect", path, "--json").data["digest"]
    path.unlink()
    path.mkdir()
    assert opened.digest().to_json() == wanted
    here("model", "inspect", path).refused(65, "huggingface.no_config")


def written_as(name: bytes, place: Path, run: Callable[..., Ended]) -> None:
    path = os.fsencode(place) + b"/" + name
    out = os.fsencode(place) + b"/out-" + name
    with open(path, "wb") as stream:
        stream.write(bitnet_bytes())
    path, out = os.fsdecode(path), os.fsdecode(out)
    data = run("model", "convert", "-i", path, "-o", out, "--json").data
    assert data["digest_before"] == data["digest_after"] and os.path.exists(out)
    said = run("model", "convert", "-i", path, "-o", out).refused(73, "io.exists").err
    said += run("model", "inspect", "-i", path + "x").refused(66, "model.not_found").err
    assert "\x1b" not in said and said.count("error[") == 2


def test_a_name_that_is_not_utf_8(place):
    written_as(b"mod\xe8le.bitnet", place, lambda *argv: spawn(*argv, cwd=place))


@pytest.mark.parametrize("name", ["модель 模型.bitnet", "a\nb.bitnet", "\x1b[31mred.bitnet",
                                  "-dash.bitnet", "%s{}.bitnet"])  # fmt: skip
def test_a_name_with_spaces_line_ends_or_escapes(name, place):
    written_as(name.encode(), place, here)


def test_two_faults_are_both_found(place):
    data, settings = tensors()[0], config(quantization=AUTO)
    for name in ("q_proj", "k_proj"):
        data[f"model.layers.0.self_attn.{name}.weight_scale"][:] = -1
    findings = here("model", "validate", write(place / "m", data, settings), "--json").envelope
    broken = {f["tensor"] for f in findings["data"]["findings"] if f["code"] == "scale.invalid"}
    assert broken == {f"layers.0.self_attn.{name}" for name in ("q_proj", "k_proj")}
