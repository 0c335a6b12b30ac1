"""The flagship's twins, two layers at the full vocabulary, through every command that reads.

Packed and master hold the same trits under the names, shapes and spelling of the released
checkpoints. Every command is a real process. The files are a gigabyte and a half in all: each
is removed when the last test that reads it is done.
"""

from __future__ import annotations

import json
import shutil
import time

import psutil
import pytest

from tests.e2e.terminal import finish, here, sha256, spawn, start

# Each builds and runs a model of the real vocabulary.
pytestmark = pytest.mark.heavy

LAYERS = 2
SEED = 11
TWINS = ("packed", "master")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("twins")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def bitnet(folder):
    """Runs a command that must go well; gives its record."""

    def run(*argv):
        ended = spawn(*argv, "--json", cwd=folder)
        assert ended.rc == 0, ended.err
        return ended.envelope["data"]

    return run


@pytest.fixture(scope="module")
def twins(bitnet, folder):
    """The two models as `transformers` folders, and their own scales."""
    for encoding in TWINS:
        bitnet(
            "model", "create", "--shape", "bitnet-2b-4t", "--layers", LAYERS, "--seed", SEED,
            "--encoding", encoding, "--output", f"{encoding}.hf",
        )  # fmt: skip
    return {encoding: folder / f"{encoding}.hf" for encoding in TWINS}


@pytest.fixture(scope="module")
def converted(bitnet, twins, folder):
    """Each as a `.bitnet` file, by the command; the records."""
    return {
        name: bitnet("model", "convert", "--input", f"{name}.hf", "--output", f"{name}.bitnet")
        for name in twins
    }


def check_conversion(record):
    assert record["digest_before"] == record["digest_after"]
    assert record["scales_changed"] == [] and record["max_logit_difference"] == 0.0
    assert record["findings"] == [] and record["allowed"] == []


def test_they_are_spelled_like_the_released_ones(twins):
    for name, path in twins.items():
        config = json.loads((path / "config.json").read_text())
        assert config["vocab_size"] == 128256 and "auto_map" in config
        assert config["rope_theta"] == 500000.0 and config["torch_dtype"] == "bfloat16"
        mode = {"packed": "offline", "master": "online"}[name]
        assert config["quantization_config"]["quantization_mode"] == mode


def test_both_have_the_same_trits_and_to_bitnet_nothing_changes(converted):
    for record in converted.values():
        check_conversion(record)
    digests = [converted[name]["digest_after"] for name in TWINS]
    assert digests[0]["trits"] == digests[1]["trits"]
    # The master's scale is the mean of its weights, the packed one's what was stored.
    assert digests[0]["trits_scales"] != digests[1]["trits_scales"]


def test_the_same_input_gives_the_same_bytes(converted, bitnet, folder):
    first = sha256(folder / "packed.bitnet")
    bitnet("model", "convert", "packed.hf", "-o", "packed.bitnet", "--force")
    assert sha256(folder / "packed.bitnet") == first


@pytest.mark.parametrize("name", ["packed.hf", "master.hf", "packed.bitnet", "master.bitnet"])
def test_inspect(name, converted, folder):
    ended = spawn("model", "inspect", name, "--show-layers", "--show-parameters",
                  "--export-json", f"{name}.json", cwd=folder)  # fmt: skip
    assert ended.rc == 0, ended.err
    assert ("auto_map" in ended.err) == name.endswith(".hf")
    assert "layers.1.mlp.down_proj" in ended.out and "ternary matrices" in ended.out
    record = json.loads((folder / f"{name}.json").read_text())
    assert record["digest"] == converted[name.partition(".")[0]]["digest_after"]
    assert record["architecture"]["vocab_size"] == 128256
    assert record["ternary_parameters"] == LAYERS * (
        2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560
    )
    stored = 16.0 if name == "master.hf" else 2.0  # a master is floats, which codes are made of
    assert stored <= record["bits_per_weight"] < stored + 0.001
    assert 2.0 <= record["packed_bits_per_weight"] < 2.001
    ternary = [row for row in record["layers"] if row.get("trits")]
    assert len(ternary) == 7 * LAYERS
    assert all(abs(row["trits"]["zero"] - 0.31) < 0.01 for row in ternary)
    assert record["tokenizer"] and record["chat_template"]


@pytest.mark.parametrize("name", ["packed.hf", "master.hf", "packed.bitnet", "master.bitnet"])
def test_validate(name, converted, bitnet):
    record = bitnet("model", "validate", name)
    assert record["findings"] == []
    assert record["digest"] == converted[name.partition(".")[0]]["digest_after"]


def said_by(command, name, folder):
    ended = spawn("serve", command, "-m", name, "-p", "The capital of France is",
                  "--max-tokens", "6", "--temperature", "0", cwd=folder)  # fmt: skip
    assert ended.rc == 0 and ended.out.strip(), ended.err
    return ended.out


@pytest.mark.parametrize("twin", TWINS)
def test_generate_says_the_same_from_either_format(twin, converted, folder):
    once = said_by("generate", f"{twin}.hf", folder)
    assert said_by("generate", f"{twin}.bitnet", folder) == once


@pytest.mark.parametrize("name", ["packed.bitnet", "master.hf"])
def test_chat(name, converted, folder):
    said_by("chat", name, folder)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("encoding", TWINS)
def test_back_to_transformers_in_either_encoding(twin, encoding, converted, bitnet, folder):
    record = bitnet(
        "model", "convert", "-i", f"{twin}.bitnet", "-o", "back.hf", "-f", "huggingface",
        "-E", encoding, "--force",
    )  # fmt: skip
    check_conversion(record)
    assert record["digest_after"] == converted[twin]["digest_after"]
    validated = here("model", "validate", folder / "back.hf", "--json").data
    assert validated["digest"] == record["digest_after"] and validated["findings"] == []


@pytest.mark.heavy
def test_one_step_of_training_on_the_master(twins, bitnet, folder):
    """`train qat` at the full vocabulary: what one step takes is printed with -s."""
    (folder / "one.yaml").write_text(
        "steps: 1\nbatch: 1\nlength: 16\neval_windows: 1\ndata: {max_bytes: 600000}\n"
        "optimizer: {name: adamw, learning_rate: 0.001}\n"
    )
    began = time.monotonic()
    process = start("train", "qat", "-m", "master.hf", "-c", "one.yaml", "-o", "run", "--json",
                    cwd=folder)  # fmt: skip
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    ended = finish(process)
    print(f"one step: {time.monotonic() - began:.0f} s, {peak / 2**30:.1f} GiB at the peak")
    record = ended.data
    assert record["step"] == 1 and record["loss"] > 0
    assert bitnet("model", "validate", "run/model.bitnet")["digest"] == record["digest"]
    assert peak < 16 * 2**30
