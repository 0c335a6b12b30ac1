"""Graphs by the exporters of PyTorch and Optimum, and by quantizers, against ONNX Runtime."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import BadData
from bitnet_jax.quant.ternary import absmean_scale, trits_of
from tests.formats.test_onnx_function import FOLDER, LIGHT, largest_difference, of_graph

pytestmark = pytest.mark.heavy

# The bound of the whole: outputs of these models are of the order of 1.
TOLERANCE = 1e-5
NAMES = (
    "mlp", "mlp, dynamo", "cnn", "cnn, dynamo", "lstm and gru", "u-net", "llama", "llama, dynamo",
    "gpt2", "gpt2, dynamo", "qwen2, dynamo", "bert", "bert, dynamo", "t5 encoder",
    "whisper encoder, dynamo", "vit, dynamo", "convnext", "mlp, dynamic int8",
    "bert, dynamic int8", "cnn, static QDQ", "mlp, static QOperator", "llama, 4 bits",
)  # fmt: skip
# Added when the lowering was done; it passed them unchanged.
LATER = (
    "mistral, dynamo", "gemma", "phi, dynamo", "opt", "bitnet, dynamo", "qwen3",
    "llama with its cache", "distilbert, dynamo", "roberta, dynamic int8", "swin", "mobilenet",
    "mobilenet, static QDQ", "wav2vec", "a loop", "gpt2, 4 bits",
)  # fmt: skip
OPTIMUM = sorted(path.stem for path in FOLDER.glob("*.onnx") if path.stem not in LIGHT)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A graph by name, made once.

    By a process of its own: torch's older exporter throws thousands of C++ exceptions, each of
    which takes a hundred times longer where XLA has compiled much before, because the unwinder
    looks through every compiled program.
    """
    from tests.formats import onnx_exported

    assert {*onnx_exported.FIRST, *onnx_exported.LATER} == {*NAMES, *LATER}
    made = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def get(name):
            if name not in made:
                folder = tmp_path_factory.mktemp("graph")
                made[name] = pool.submit(onnx_exported.export_named, name, folder).result()
            return made[name]

        yield get


@pytest.mark.parametrize("name", NAMES + LATER)
def test_a_graph_of_pytorch_is_within_1e_5_of_onnx_runtime(name, exported):
    found = exported(name)
    fn, params = bj.from_onnx(found.path)
    assert params
    assert largest_difference(fn, params, found.inputs, found.outputs) <= TOLERANCE


@pytest.mark.parametrize("name", OPTIMUM)
def test_a_graph_of_optimum_is_within_1e_5_of_onnx_runtime(name):
    expected = np.load(FOLDER / "expected.npz")
    fn, params = bj.from_onnx(FOLDER / f"{name}.onnx")
    inputs, outputs = (of_graph(expected, name, part) for part in ("in", "out"))
    assert largest_difference(fn, params, inputs, outputs) <= TOLERANCE


def test_there_are_thirty_and_ten_came_later():
    assert len(NAMES) + len(LATER) + len(OPTIMUM) + len(LIGHT) >= 30
    assert len(LATER) >= 10


@pytest.mark.parametrize("name", ["mlp", "llama", "gpt2, dynamo", "llama, 4 bits"])
def test_every_matrix_of_a_graph_is_made_ternary_and_compiled(name, exported):
    """QAT at λ = 1 and the packed function agree, and both differ from the float graph."""
    found = exported(name)
    fn, params = bj.from_onnx(found.path, dequantize="4 bits" in name)
    inputs = [found.inputs[item.name] for item in fn.inputs]
    # Tables of positions are multiplied by nothing that is a weight.
    rules = [bj.Rule("**.embeddings.**", to="keep"), bj.Rule("**", use="dot", to="ternary")]
    rules = rules if any(".embeddings." in key for key in params) else rules[1:]
    packed = bj.pack(fn, params, rules, *inputs)
    assert len(packed.quants()) >= 2
    made = jax.jit(bj.ternarize(fn, rules, mode="packed"))(packed, *inputs)
    qat = jax.jit(bj.ternarize(fn, rules))(params, *inputs)
    # What lies between the products is compiled in two programs: no bits are promised there.
    np.testing.assert_allclose(made, qat, rtol=2e-5, atol=2e-5)
    assert np.abs(np.asarray(made) - next(iter(found.outputs.values()))).max() > 1e-3


def test_a_linear_of_pytorch_is_made_ternary_as_by_hand(exported):
    found = exported("mlp")
    fn, params = bj.from_onnx(found.path)
    path = next(key for key in params if params[key].shape == (48, 32))
    rules = [bj.Rule(path, use="dot", to="ternary")]
    packed = bj.pack(fn, params, rules, found.inputs["x"])
    w = np.asarray(params[path])
    codes = np.asarray(packed.quants()[path][0].codes_matrix())
    scale = np.asarray(packed.quants()[path][0].scale)
    np.testing.assert_array_equal(codes, trits_of(w, absmean_scale(w)))
    assert scale == absmean_scale(w)


# ---------------------------------------------------------------- decoders as checkpoints
DECODERS = ("llama", "llama, dynamo", "mistral, dynamo", "qwen2, dynamo", "qwen3", "phi, dynamo",
            "llama with its cache")  # fmt: skip


def beside(found, name):
    model, _ = _rows()[name].make()
    settings = model.model.config.to_dict()
    settings["architectures"] = [type(model.model).__name__]
    (found.path.parent / "config.json").write_text(json.dumps(settings))
    return Path(found.path)


def _rows():
    from tests.formats import onnx_exported

    return onnx_exported.FIRST | onnx_exported.LATER


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_of_another_exporter_is_the_same_model(name, exported, tmp_path):
    """Converted to a `transformers` folder, it gives the logits that ONNX Runtime gives."""
    import torch
    import transformers

    found = exported(name)
    path = beside(found, name)
    record = bj.convert(path, tmp_path / "m.hf")
    if "cache" in name:  # of a fixed length, with no mask
        assert record["wiring"]["holds"] is None and "3 entries" in record["wiring"]["unproven"]
    else:
        assert record["wiring"]["holds"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m.hf").eval()
    if "input_ids" in found.inputs and "cache" not in name:
        with torch.no_grad():
            made = model(torch.from_numpy(found.inputs["input_ids"])).logits.numpy()
        wanted = next(iter(found.outputs.values()))
        assert np.abs(made - wanted).max() <= TOLERANCE


def _half(source, target):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source)), target)


def _dynamic(source, target):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, ["MatMul"], weight_type=QuantType.QInt8)


def _static(source, target):
    from onnxruntime.quantization import QuantFormat, quantize_static

    from tests.formats.onnx_exported import _Samples, ids

    ones = np.ones((2, 7), np.int64)
    samples = _Samples({"input_ids": ids().numpy(), "attention_mask": ones})
    quantize_static(
        source, target, samples, quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip


@pytest.mark.parametrize("narrow", [_half, _dynamic, _static])
def test_the_wiring_of_a_narrow_graph_is_compared_without_its_rounding(narrow, exported, tmp_path):
    """What a graph makes of its activations while it runs changes its logits, not its wiring."""
    found = exported("llama")
    narrow(found.path, tmp_path / "model.onnx")
    shutil.copy(beside(found, "llama").parent / "config.json", tmp_path)
    wiring = bj.convert(tmp_path / "model.onnx", tmp_path / "m.bitnet")["wiring"]
    assert wiring["holds"]
    assert wiring["limit"] == (2**-11 if narrow is _half else 2e-6)
    assert wiring["median_logit_difference"] <= (1e-4 if narrow is _half else 2e-6)


def test_a_vector_that_an_exporter_folded_is_no_parameter(exported):
    """Gemma multiplies by 1 + w, and the older exporter writes that sum."""
    path = beside(exported("gemma"), "gemma")
    with pytest.raises(BadData, match="layernorm") as caught:
        bj.open_checkpoint(path)
    assert caught.value.code == "onnx.missing_weight"
