"""`inspect`: bytes of every file of a model, and the bits that it stores for a weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitnet_jax.analysis.inspect import inspect
from bitnet_jax.bench.compare import file_bytes
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats.create import create
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.quant.tensor import from_codes
from bitnet_jax.workflows.export import export_model
from tests.formats import gguf_models as made

MODEL = create("tiny", layers=1, vocab_size=300)
WIDE = made.model(made.wide(1), dtype="float32")
# Of bits a weight: in halves and floats those of the type, the scale of a tensor next to nothing.
NOTHING = 0.03
STORED = {
    ("bitnet", None): ("t2.16x16", 2),
    ("bitnet", "packed-1.6"): ("t1.16x20", 1.6),
    ("huggingface", "bitlinear"): ("U8", 2),
    ("huggingface", "master"): ("F32", 32),
    ("gguf", "f32"): ("F32", 32),
    ("gguf", "f16"): ("F16", 16),
    ("gguf", "tq2_0"): ("TQ2_0", 2.0625),  # a float16 for every 256
    ("gguf", "tq1_0"): ("TQ1_0", 1.6875),
    ("gguf", "i2_s"): ("I2_S", 2),
}


@pytest.mark.parametrize("case", STORED, ids=str)
def test_bits_of_a_weight_are_those_of_the_file(case, tmp_path):
    format, encoding = case
    path = tmp_path / f"model.{format}"
    save_checkpoint(WIDE, path, format=format, encoding=encoding)
    record = inspect(path)
    word, bits = STORED[case]
    assert bits <= record["bits_per_weight"] < bits + NOTHING
    rows = [row for row in record["layers"] if "kind" in row]
    assert {row["stored_as"] for row in rows} == {word}
    assert all(bits <= row["bits_per_weight"] < bits + NOTHING for row in rows)
    assert 2 <= record["packed_bits_per_weight"] < 2 + NOTHING or encoding == "packed-1.6"


def test_a_graph_stores_what_its_profile_says_and_all_its_files_count(tmp_path):
    source, path = tmp_path / "m.bitnet", tmp_path / "m.onnx"
    save_checkpoint(MODEL, source)
    export_model(source, path, probe=False)
    data = tmp_path / "m.onnx.data"
    record = inspect(path)
    assert record["file_bytes"] == path.stat().st_size + data.stat().st_size == file_bytes(path)
    assert record["file_bits_per_parameter"] > 8
    assert 8 <= record["bits_per_weight"] < 8 + NOTHING
    assert record["packed_bits_per_weight"] < 3


def test_of_a_folder_every_file_that_was_read_counts(tmp_path):
    save_checkpoint(MODEL, tmp_path / "m.hf", format="huggingface")
    (tmp_path / "m.hf" / "notes.txt").write_text("no part of it")
    named = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "m.hf").iterdir()}
    least = sum(sizes[name] for name in named)
    assert least <= inspect(tmp_path / "m.hf")["file_bytes"] <= sum(sizes.values()) - 13


def test_integers_of_four_bits_and_where_they_can_go(tmp_path):
    name = "layers.0.mlp.up_proj"
    codes = np.zeros(MODEL.entries[name].shape, np.int8)
    tensor = from_codes(codes, np.float32(1), kind="int4", dtype="bfloat16")
    entry = replace(MODEL.entries[name], read=lambda: tensor, latent=None)
    path = tmp_path / "m.bitnet"
    save_checkpoint(replace(MODEL, entries={**MODEL.entries, name: entry}), path)
    record = inspect(path)
    (row,) = [row for row in record["layers"] if row.get("kind") == "int4"]
    assert 4 <= row["bits_per_weight"] < 4 + NOTHING and 2 < record["bits_per_weight"] < 4
    for format in ("huggingface", "gguf"):
        with pytest.raises(CannotCreate):
            save_checkpoint(open_checkpoint(path), tmp_path / "other", format=format)
    reasons = {row["engine"]: row["reason"] for row in record["runs_in"]}
    for engine in ("transformers", "llama.cpp", "bitnet.cpp", "mlx-lm"):
        assert "bitnet model convert" not in reasons[engine]


def test_a_model_of_floats_has_no_bits_of_quantized_weights(tmp_path):
    save_checkpoint(made.floats(WIDE), tmp_path / "m.gguf", format="gguf", encoding="f32")
    record = inspect(tmp_path / "m.gguf")
    assert record["bits_per_weight"] is None and record["packed_bits_per_weight"] is None
