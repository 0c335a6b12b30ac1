from __future__ import annotations

import importlib.util

import pytest

from bitnet_jax.bench.compare import LEAST, _check_context, _Enough, bench_compare
from bitnet_jax.bench.peers import child, table
from bitnet_jax.bench.peers.process import Peer
from bitnet_jax.bench.peers.runner import Job
from bitnet_jax.bench.peers.table import RUNTIMES, kind_of, pairs, runtime
from bitnet_jax.core.errors import BadData, NoInput, Unavailable, UsageError
from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / "a.bitnet", folder / "b.bitnet"]
    for seed, path in enumerate(paths):
        save_checkpoint(create("tiny", layers=1, seed=seed), path, format="bitnet")
    return [str(path) for path in paths]


def test_two_models_take_turns_in_processes_of_their_own(models):
    record = bench_compare(models, prompt_tokens=8, decode_tokens=4, count=8)
    names = [f"{model} (bitnet-jax)" for model in models]
    assert [row["name"] for row in record["contestants"]] == names
    for row in record["contestants"]:
        assert row["peak_bytes"] > 50 << 20 and row["file_bytes"] > 1000
        assert row["kernel"].startswith("native") and row["weight_bytes"] > 0
    rows = [(r["name"], r["phase"], r["rounds"]) for r in record["results"]]
    assert rows == [(name, phase, 8) for phase in ("prefill", "decode") for name in names]
    first, second = record["results"][:2]
    assert first["speedup"] == 1 and first["speedup_interval"] == [1, 1] and not first["differs"]
    low, high = second["speedup_interval"]
    assert 0 < low <= high and second["differs"] in (True, False)
    assert 0 < second["latency_seconds"]["median"] < 60


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"metrics": ["speed"]}, UsageError, "bench.metric"),
        ({"runtimes": ["llama"]}, UsageError, "bench.runtime_unknown"),
        ({"batch_sizes": [0]}, UsageError, "bench.size"),
        ({"count": 0}, UsageError, "bench.size"),
        ({"device": "cuda"}, Unavailable, "bench.compare_device"),
    ],
)
def test_what_cannot_be_compared_is_refused(models, asked, error, code):
    with pytest.raises(error) as caught:
        bench_compare(models, **asked)
    assert caught.value.code == code


def test_one_contestant_is_no_comparison(models):
    with pytest.raises(UsageError, match="two are compared"):
        bench_compare([models[0], models[0]])


def test_errors_of_the_other_process_keep_their_class_and_code(tmp_path):
    with pytest.raises(NoInput, match="nothing-here"):
        with Peer("bitnet-jax", Job(str(tmp_path / "nothing-here.bitnet"), 1, (1,), 4, 2)):
            pass


def test_more_tokens_than_the_shortest_context_are_refused():
    peer = Peer("bitnet-jax", Job("x", 1, (1,), 4, 2))
    peer.facts = {"positions": 256}
    _check_context({"x": peer}, 256)
    with pytest.raises(UsageError, match="the context of x is 256"):
        _check_context({"x": peer}, 257)


def test_a_process_that_dies_is_told(models):
    with Peer("bitnet-jax", Job(models[0], 1, (1,), 4, 2)) as peer:
        peer._process.kill()
        peer._process.wait()
        with pytest.raises(Unavailable) as caught:
            peer.seconds("decode", 1)
        assert caught.value.code == "bench.runtime_failed" and caught.value.hint
    assert peer._process is None


def test_a_runtime_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("transformers", "llama.cpp", "onnxruntime"):
        with pytest.raises(Unavailable) as caught:
            runtime(name)
        assert caught.value.code == "bench.runtime_missing" and "pip install" in caught.value.hint
    assert runtime("bitnet-jax") is RUNTIMES["bitnet-jax"]


def test_models_and_runtimes_are_paired_by_kind(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "runtime", lambda name: RUNTIMES[name])
    gguf, onnx, folder, ours = (tmp_path / n for n in ("g", "m.ONNX", "hf", "o.bitnet"))
    gguf.write_bytes(b"GGUF0000")
    onnx.write_bytes(b"\x08")
    ours.write_bytes(b"x")
    folder.mkdir()
    kinds = [kind_of(path) for path in (gguf, onnx, folder, ours, "org/name")]
    assert kinds == ["gguf", "onnx", "huggingface", "bitnet", "address"]
    names = ["bitnet-jax", "transformers", "llama.cpp"]
    found = pairs([str(ours), str(folder), str(gguf)], names)
    assert [(p.rpartition("/")[2], n) for p, n in found] == [
        ("o.bitnet", "bitnet-jax"),
        ("hf", "bitnet-jax"),
        ("hf", "transformers"),
        ("g", "llama.cpp"),
    ]
    with pytest.raises(UsageError, match="model .*g` has no runtime"):
        pairs([str(gguf)], ["bitnet-jax"])
    with pytest.raises(UsageError, match=r"runtime `llama.cpp` has no model"):
        pairs([str(ours)], ["bitnet-jax", "llama.cpp"])


def test_the_command_knows_the_tables_names():
    from bitnet_cli.args import Parser
    from bitnet_cli.commands.bench.compare import BenchCompareArgs

    field = Parser(BenchCompareArgs).fields["runtimes"]
    assert tuple(field.metadata["choices"]) == tuple(RUNTIMES)


def test_rounds_go_on_until_all_part_and_are_looked_at_rarely():
    enough = _Enough(None, float("inf"))
    same, other = [1.0, 1.1] * 4, [2.0, 2.2] * 4
    assert not enough({"a": same[: LEAST - 1], "b": other[: LEAST - 1]})
    assert enough({"a": same, "b": other})
    assert not enough({"a": [*same, 1.0], "b": [*other, 2.0]})  # nine: not looked at
    assert not enough({"a": same, "b": other, "c": list(reversed(same))})
    assert enough({"a": [1.0] * 20, "b": [1.0] * 20})
    assert _Enough(None, 0.0)({"a": same, "b": same})
    assert _Enough(2, float("inf"))({"a": [1, 1], "b": [1, 1]})


def test_the_child_answers_what_goes_wrong_and_goes_on():
    answers = []
    child.serve("none", ['{"do": "facts"}'], answers.append)
    assert answers[0]["error"][0] is None
    answers.clear()
    job = '{"do": "open", "job": {"model": "x", "threads": 1, "batches": [1], "prompt": 1,'
    child.serve("ours", [job + ' "decode": 1}}'], answers.append)
    assert answers[0]["error"][0] == "NoInput"


def _onnx_decoder(path, *, cache):
    """A decoder of one embedding and one product; with a cache that is only carried along."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "all"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", 11])
    table = numpy_helper.from_array(np.eye(11, dtype=np.float32), "table")
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"])]
    inputs, outputs = [ids, mask], [logits]
    if cache:
        shape = ["batch", 2, "past", 4]
        kind = TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info("past_key_values.0.key", kind, shape))
        outputs.append(helper.make_tensor_value_info("present.0.key", kind, shape))
        new = numpy_helper.from_array(np.zeros((1, 2, 1, 4), np.float32), "new")
        nodes.append(
            helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2)
        )
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, [table, *([new] if cache else [])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return str(path)


@pytest.mark.heavy
def test_onnxruntime_runs_a_decoder_with_and_without_a_cache(tmp_path):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    paths = [_onnx_decoder(tmp_path / f"{cache}.onnx", cache=cache) for cache in (True, False)]
    asked = {"prompt_tokens": 4, "decode_tokens": 3, "count": 2, "runtimes": ["onnxruntime"]}
    record = bench_compare(paths, **asked)
    assert all(row["version"] for row in record["contestants"])
    assert "no cache" in record["contestants"][1]["kernel"]
    assert all(row["tokens_per_second"]["median"] > 0 for row in record["results"])
    import onnx

    other = onnx.load(paths[1])
    other.graph.input[0].name = "tokens"
    other.graph.node[0].input[1] = "tokens"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(BadData, match="it needs `input_ids`"):
        bench_compare([paths[1], str(tmp_path / "other.onnx")], **asked)


def _gguf(path):
    """A llama of one layer, in float32, without a vocabulary."""
    import gguf
    import numpy as np

    hidden, inner, vocabulary, heads = 64, 128, 96, 4
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")
    shapes = {
        "token_embd": (vocabulary, hidden),
        "output": (vocabulary, hidden),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden),
        "blk.0.ffn_down": (hidden, inner),
    } | {f"blk.0.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32) / 8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.mark.heavy
def test_llama_cpp_runs_batches_of_sequences(models, tmp_path):
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    record = bench_compare(
        [models[0], _gguf(tmp_path / "tiny.gguf")],
        runtimes=["bitnet-jax", "llama.cpp"],
        batch_sizes=[1, 3],
        prompt_tokens=8,
        decode_tokens=4,
        count=2,
    )
    assert record["contestants"][1]["weight_bytes"] > 0
    assert all(row["tokens_per_second"]["median"] > 0 for row in record["results"])
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(BadData, match=r"llama.cpp cannot read"):
        bench_compare([models[0], str(tmp_path / "bad.gguf")], runtimes=["bitnet-jax", "llama.cpp"])


@pytest.mark.heavy
def test_transformers_runs_the_model_that_we_run(tmp_path):
    folder = tmp_path / "tiny.hf"
    save_checkpoint(create("tiny", layers=1), folder, format="huggingface")
    record = bench_compare(
        [str(folder)],
        runtimes=["bitnet-jax", "transformers"],
        batch_sizes=[1, 2],
        prompt_tokens=8,
        decode_tokens=4,
        count=2,
    )
    assert [row["runtime"] for row in record["contestants"]] == ["bitnet-jax", "transformers"]
    assert "torch" in record["contestants"][1]["kernel"]
    assert all(row["tokens_per_second"]["median"] > 0 for row in record["results"])
