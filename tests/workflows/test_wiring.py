"""Decoders of other exporters: their own graph against what the config beside it says.

The graph is a Llama that Optimum exported; each fault is an edit of it, or of the config.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData

GRAPH = Path(__file__).parent.parent / "formats" / "onnx_graphs" / "optimum_llama_with_past.onnx"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 48,
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
NORM, ROTARY = "/model/layers.1/post_attention_layernorm/", "/model/layers.0/self_attn/"


def _nodes(model, op, start=""):
    return [n for n in model.graph.node if n.op_type == op and n.name.startswith(start)]


def _activation(model):
    for node in _nodes(model, "Sigmoid"):
        node.op_type = "Tanh"


def _epsilon(model):
    """In one norm of five, from 1e-6 to 1e-5."""
    [constant] = [
        n for n in _nodes(model, "Constant", NORM)
        if numpy_helper.to_array(n.attribute[0].t).tolist() == pytest.approx(1e-6)
    ]  # fmt: skip
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(1e-5)))


def _norm(model):
    """The second norm of a layer is left out."""
    before, after = NORM + "Cast_output_0", NORM + "Mul_1_output_0"
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name == after:
                node.input[slot] = before


def _rotary_base(model):
    frequencies = 5e5 ** (-np.arange(0, 8, 2, dtype=np.float32) / 8)
    [tensor] = [t for t in _constants(model) if t.dims == [1, 4, 1]]
    tensor.CopyFrom(numpy_helper.from_array(frequencies.reshape(1, 4, 1), tensor.name))


def _constants(model):
    yield from model.graph.initializer
    for node in _nodes(model, "Constant"):
        yield node.attribute[0].t


def _rotary_layout(model):
    """One layer rotates the other way round, as where halves are taken for pairs."""
    for node in _nodes(model, "Neg", ROTARY):
        node.op_type = "Identity"


def _mask(model):
    """A position sees those that follow it."""
    for node in _nodes(model, "Where", "/model/layers.0/self_attn/Where_2"):
        node.input[2] = node.input[1]


def _swapped(model):
    """Two matrices of one shape are called by each other's names."""
    a, b = (f"/model/layers.1/mlp/{part}_proj/MatMul" for part in ("gate", "up"))
    for node in model.graph.node:
        node.name = {a: b, b: a}.get(node.name, node.name)


EDITS = [_epsilon, _norm, _rotary_base, _rotary_layout, _mask, _swapped]
CONFIGS = [
    {"rms_norm_eps": 1e-5},
    {"rope_theta": 500000.0},
    {"num_attention_heads": 4, "num_key_value_heads": 2},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
]


def folder_of(folder, edit=None, **changes):
    model = onnx.load(GRAPH)
    if edit is not None:
        edit(model)
    onnx.save(model, folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder / "model.onnx"


@pytest.mark.heavy
def test_a_graph_that_computes_what_its_config_says_is_converted_and_that_is_stated(tmp_path):
    record = bj.convert(folder_of(tmp_path), tmp_path / "m.hf", format="huggingface")
    wiring = record["wiring"]
    assert wiring["holds"] and wiring["tokens"] == 24
    assert 0 < wiring["median_logit_difference"] <= wiring["limit"] == 2e-6
    assert record["seconds"]["wiring"] > 0
    assert not any("was not compared" in text for text in record["warnings"])


def refused(source, output):
    with pytest.raises(BadData) as caught:
        bj.convert(source, output, format="huggingface")
    assert caught.value.code == "contract.wiring"
    assert not output.exists() and not list(output.parent.glob("*receipt*"))


def test_another_activation_is_refused(tmp_path):
    refused(folder_of(tmp_path, _activation), tmp_path / "m.hf")


@pytest.mark.heavy
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_graph_that_was_wired_otherwise_is_refused(edit, tmp_path):
    refused(folder_of(tmp_path, edit), tmp_path / "m.hf")


@pytest.mark.heavy
@pytest.mark.parametrize("changes", CONFIGS, ids=lambda changes: "-".join(changes))
def test_a_config_of_another_model_is_refused(changes, tmp_path):
    refused(folder_of(tmp_path, **changes), tmp_path / "m.hf")


@pytest.mark.heavy
def test_the_command_ends_with_an_error_and_without_the_probe_it_does_not(tmp_path):
    source = folder_of(tmp_path, _activation)

    def run(*words):
        line = [sys.executable, "-m", "bitnet_cli.main", "model", "convert", "--input", source,
                "--output", tmp_path / "m.bitnet", "--json", *words]  # fmt: skip
        done = subprocess.run(line, capture_output=True, timeout=300)
        return done.returncode, json.loads(done.stdout)

    code, told = run()
    assert (code, told["errors"][0]["code"]) == (65, "contract.wiring")
    code, told = run("--no-probe")
    assert code == 0 and "wiring" not in told["data"]


@pytest.mark.heavy
def test_an_operator_that_is_not_known_is_a_warning_that_names_its_node(tmp_path):
    def other(model):
        _nodes(model, "Sigmoid")[0].domain = "my.own"
        model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))

    record = bj.convert(folder_of(tmp_path, other), tmp_path / "m.hf", format="huggingface")
    assert record["wiring"]["holds"] is None
    [warning] = [text for text in record["warnings"] if "was not compared" in text]
    assert "/model/layers.0/mlp/act_fn/Sigmoid" in warning and "my.own" in warning


@pytest.mark.heavy
def test_the_receipt_is_derived_again_and_notices_another_graph(tmp_path):
    source = folder_of(tmp_path)
    record = bj.convert(source, tmp_path / "m.bitnet")
    asked = {"receipt": record["receipt"], "source": source}
    again = bj.validate(tmp_path / "m.bitnet", **asked)
    claims = {row["claim"]: row["ok"] for row in again["receipt"]["claims"]}
    assert claims["wiring"] and again["receipt"]["holds"]
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "config.json", tmp_path / "other")
    other = folder_of(tmp_path / "other", _activation)
    again = bj.validate(tmp_path / "m.bitnet", **{**asked, "source": other})
    codes = {row["code"] for row in again["findings"]}
    assert {"receipt.source_files", "receipt.wiring"} <= codes


@pytest.mark.heavy
def test_an_export_of_a_graph_that_was_wired_otherwise_is_refused(tmp_path):
    with pytest.raises(BadData) as caught:
        bj.export_model(folder_of(tmp_path, _norm), tmp_path / "out.onnx")
    assert caught.value.code == "contract.wiring"
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.heavy
def test_a_graph_is_quantized_only_where_it_computes_what_its_config_says(tmp_path):
    from bitnet_jax.formats.create import create
    from bitnet_jax.formats.save import save_checkpoint

    save_checkpoint(create("tiny", layers=1), tmp_path / "t", format="huggingface")
    asked = {"text": tmp_path / "text.txt", "tokens": 64, "precision": "8"}
    asked["text"].write_text("a" * 400)
    shutil.copy(tmp_path / "t" / "tokenizer.json", tmp_path)
    source = folder_of(tmp_path, _activation)
    with pytest.raises(BadData) as caught:
        bj.quant_convert(source, tmp_path / "m.bitnet", **asked)
    assert caught.value.code == "contract.wiring"


def test_a_quantized_model_is_not_what_the_graph_computes(tmp_path):
    from bitnet_jax.workflows.quant_convert import quantized_checkpoint
    from bitnet_jax.workflows.quant_model import float_model

    checkpoint = bj.open_checkpoint(folder_of(tmp_path))
    assert checkpoint.own is not None
    assert quantized_checkpoint(float_model(checkpoint)).own is None
