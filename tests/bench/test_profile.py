from __future__ import annotations

import pytest

from bitnet_jax.bench.hlo import parse
from bitnet_jax.bench.places import places
from bitnet_jax.bench.profile import bench_profile, shape_of
from bitnet_jax.core.errors import CannotCreate, Unavailable, UsageError
from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.runtime.model import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "tiny.bitnet"
    save_checkpoint(create("tiny", layers=2), path, format="bitnet")
    return path


@pytest.fixture(scope="module")
def decode(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace") / "kept"
    return bench_profile(
        model,
        input_shape="2x1",
        profile_memory=True,
        profile_gpu=True,
        trace_to=str(folder),
        runs=3,
    )


def test_a_decode_step_is_told_by_layer_and_op(decode):
    assert decode["phase"] == "decode" and decode["input_shape"] == [2, 1]
    assert [row["layer"] for row in decode["layers"]] == [
        "embedding",
        "layer 0",
        "layer 1",
        "head",
    ]
    ops = {row["op"]: row for row in decode["ops"]}
    assert any(name.startswith("bitnet_") for name in ops) and ops
    for groups in (decode["layers"], decode["ops"]):
        total = sum(row["seconds"] for row in groups)
        assert total == pytest.approx(decode["instruction_seconds"])
        assert sum(row["share"] for row in groups) == pytest.approx(1)


def test_every_ternary_product_is_its_weights(decode):
    products = [r for r in decode["instructions"] if any("_proj" in w for w in r["weights"])]
    names = sorted(w for row in products for w in row["weights"] if "_proj" in w)
    assert len(names) == 14 and names[0] == "layers.0.mlp.down_proj"
    for row in products:
        assert row["seconds"] > 0 and row["gb_s"] > 0
        assert all(f"layers.{row['layer'].split()[1]}." in weight for weight in row["weights"])
    assert decode["instructions"] == sorted(decode["instructions"], key=lambda r: -r["seconds"])


def test_memory_cost_and_what_was_asked_of_a_gpu_that_is_not_there(decode):
    memory = decode["memory"]
    assert memory["temp_bytes"] > 0 and memory["argument_bytes"] > 0 and memory["largest"]
    sizes = [row["bytes_written"] for row in memory["largest"]]
    assert sizes == sorted(sizes, reverse=True)
    cost = decode["cost"]
    trits = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    assert cost["int8_operations"] == 2 * 2 * trits and cost["xla_flops"] > 0
    assert any("no GPU here" in words for words in decode["warnings"])


def test_the_trace_is_kept_where_it_was_asked_for(decode, model):
    from pathlib import Path

    kinds = {path.rpartition("/")[2].partition(".")[2] for path in decode["trace"]}
    assert "xplane.pb" in kinds and all(Path(path).is_file() for path in decode["trace"])
    assert any(path.endswith("perfetto_trace.json.gz") for path in decode["trace"])
    folder = decode["trace"][0].partition("/plugins")[0]
    with pytest.raises(CannotCreate):
        bench_profile(model, trace_to=folder)


def test_the_head_is_behind_the_last_layer_and_the_embedding_before_the_first(model):
    engine = load(model).engine
    text = engine.decode_executable(1, 256).compiled.as_text()
    module = parse(text)
    found = places(module, text)
    lines = {line.name: line for line in module.computations[module.entry]}
    root = list(lines.values())[-1]
    assert root.opcode == "tuple"
    assert found[root.operands[0]].layer == "head"  # the logits
    gathered = [
        p for n, p in found.items() if "embed_tokens" in p.weights and p.layer == "embedding"
    ]
    assert gathered


@pytest.mark.parametrize(
    ("text", "shape"), [("512", (1, 512)), ("4x512", (4, 512)), ("1", (1, 1)), ("8x1", (8, 1))]
)
def test_shapes(text, shape):
    assert shape_of(text) == shape


@pytest.mark.parametrize("text", ["", "x", "0", "4x0", "-1", "1x2x3", "4X5", "٣x٤x", "1.5"])
def test_no_shapes(text):
    with pytest.raises(UsageError) as caught:
        shape_of(text)
    assert caught.value.code == "bench.shape"


def test_what_cannot_be_profiled(model):
    with pytest.raises(UsageError, match="context is 256"):
        bench_profile(model, input_shape="257")
    with pytest.raises(Unavailable, match="GiB"):
        bench_profile(model, input_shape="10000000x256")
    with pytest.raises(Unavailable) as caught:
        bench_profile(model, device="tpu")
    assert caught.value.code == "device.missing"
