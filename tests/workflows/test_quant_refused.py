"""What `quant analyze`, `convert` and `validate` refuse, before they compute anything."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core import errors
from bitnet_jax.formats.checkpoint import Source, checkpoint_of
from bitnet_jax.formats.create import create
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.models.families import fresh_params
from bitnet_jax.workflows.measured_text import read_windows


@functools.cache
def tiny():
    return create("tiny", layers=1)


@functools.cache
def floats(spec):
    return fresh_params(spec, 0)


def float_model(path, change=lambda params: None, tokenizer=True, **fields):
    """One layer of floats with the tokenizer of `create`."""
    model = tiny()
    spec = replace(model.spec, **fields)
    params = {name: np.array(value) for name, value in floats(spec).items()}
    change(params)
    files = model.tokenizer if tokenizer else None
    source = Source(Path("memory"), "memory", "float")
    save_checkpoint(checkpoint_of(spec, params, files, source), path, format="huggingface")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)


@pytest.fixture
def model():
    float_model("m.hf")
    return "m.hf"


def refused(code, kind, call, *args, **options):
    with pytest.raises(kind) as caught:
        call(*args, **options)
    assert caught.value.code == code, caught.value
    assert caught.value.hint
    return caught.value


def analyze(model, **options):
    return bj.quant_analyze(model, **{"text": "text.txt", "tokens": 256} | options)


def convert(model, output="out.bitnet", **options):
    return bj.quant_convert(model, output, **{"text": "text.txt", "tokens": 256} | options)


EITHER = pytest.mark.parametrize("call", [analyze, convert])


# --------------------------------------------------------------------------- the model
@pytest.mark.sampled(4)
@EITHER
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["layers.0.mlp.up_proj", "embed_tokens"])
def test_weights_that_are_no_numbers(call, name, value):
    float_model("m.hf", change=lambda params: params[name].__setitem__((0, 0), value))
    error = refused("weights.not_finite", errors.BadData, call, "m.hf")
    assert name in error.message
    assert not Path("out.bitnet").exists()


@EITHER
def test_a_model_that_is_ternary_already(call):
    save_checkpoint(tiny(), "t.bitnet")
    assert "quantized already" in refused("quant.already", errors.BadData, call, "t.bitnet").message


@EITHER
def test_a_model_that_is_not_there(call):
    refused("model.not_found", errors.NoInput, call, "nowhere.hf")


@EITHER
@pytest.mark.parametrize("precision", ["2", "1.5", "", 4])
def test_a_precision_that_is_none(call, precision, model):
    refused("quant.precision", errors.UsageError, call, model, precision=precision)


# ---------------------------------------------------------------------------- the rules
def recipe(text):
    Path("c.yaml").write_text(text)
    return "c.yaml"


@EITHER
@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("rules: [{path: nowhere.*}]", "quant.rule_unused", errors.UsageError),
        ("rules: [{path: embed_tokens}]", "quant.not_a_linear", errors.BadData),
        ("rules: [{path: '**', to: int3}]", "train.config_value", errors.ConfigError),
        ("rules: [{to: ternary}]", "train.config_value", errors.ConfigError),
        ("rules: [{path: '**', scale: group-7}]", "train.config_value", errors.ConfigError),
        ("rules: all", "train.config_value", errors.ConfigError),
        ("rools: []", "train.config_key", errors.ConfigError),
        ("rules: [", "train.config_yaml", errors.ConfigError),
        ("rules: [{path: '**.down_proj', scale: group-48}]", "quant.group_size", errors.UsageError),
    ],
)
def test_rules_that_are_wrong(call, text, code, kind, model):
    with pytest.raises(kind) as caught:
        call(model, recipe=recipe(text))
    assert caught.value.code == code


@EITHER
def test_a_recipe_that_is_not_there(call, model):
    refused("io.not_found", errors.NoInput, call, model, recipe="nowhere.yaml")


def test_what_keeps_all_quantizes_nothing_and_says_so(model):
    refused(
        "quant.nothing", errors.UsageError, analyze, model,
        recipe=recipe("rules: [{path: '**', use: '*', to: keep}]"),
    )  # fmt: skip


# ----------------------------------------------------------------------------- the text
@EITHER
@pytest.mark.parametrize(
    ("text", "code"), [("", "train.data_empty"), ("Too short.", "text.too_short")]
)
def test_text_that_says_too_little(call, text, code, model):
    Path("t.txt").write_text(text)
    refused(code, errors.BadData, call, model, text="t.txt")


@EITHER
def test_text_that_is_not_there_or_not_text(call, model):
    with pytest.raises(errors.NoInput):
        call(model, text="nowhere.txt")
    Path("t.txt").write_bytes(b"\xff\xfe" * 400)
    refused("train.data_not_text", errors.BadData, call, model, text="t.txt")


@EITHER
def test_a_model_without_a_tokenizer_reads_ids_alone(call):
    float_model("m.hf", tokenizer=False)
    error = refused("model.no_tokenizer", errors.UsageError, call, "m.hf")
    assert '{"tokens": [1, 2, 3]}' in error.hint


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([{"tokens": [1, 2, 512] * 60}], "tokens.vocabulary"),
        ([{"tokens": [1, -2] * 90}], "tokens.vocabulary"),
        ([{"tokens": [1, 2]}, {"text": "x"}], "text.tokens"),
        ([{"tokens": [1.5] * 90}], "text.tokens"),
        ([{"tokens": [True] * 90}], "text.tokens"),
        ([{"tokens": [1] * 9}], "text.too_short"),
    ],
)
def test_ids_that_are_none(lines, code):
    float_model("m.hf", tokenizer=False)
    Path("ids.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refused(code, errors.BadData, analyze, "m.hf", text="ids.jsonl")


def test_ids_make_windows_as_text_does():
    float_model("m.hf", tokenizer=False)
    Path("ids.jsonl").write_text("\n".join(json.dumps({"tokens": [n] * 100}) for n in range(3)))
    found = read_windows(bj.open_checkpoint("m.hf"), "ids.jsonl", tokens=128, length=32).tokens
    assert found.shape == (4, 32)
    # Each begins with the model's own first token; the first of every line, then the second.
    assert (found[:, 0] == 256).all() and found[:, 1].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("options", [{"tokens": 8}, {"length": 8}, {"length": 10**6}])
def test_windows_that_cannot_be(options, model):
    refused("text.window", errors.UsageError, analyze, model, **options)


# --------------------------------------------------------------------------- the output
def test_an_output_that_is_there_and_one_that_is_the_input(model):
    Path("out.bitnet").write_text("mine")
    refused("io.exists", errors.CannotCreate, convert, model)
    assert Path("out.bitnet").read_text() == "mine"
    same = {"format": "huggingface", "force": True}
    refused("io.output_is_input", errors.CannotCreate, convert, model, "m.hf", **same)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"method": "magic"}, "quant.method"),
        ({"calibration": "text.txt"}, "quant.calibration"),
        ({"format": "zip"}, "format.unknown"),
        ({"encoding": "odd"}, "format.encoding"),
    ],
)
def test_ways_to_convert_that_are_none(options, code, model):
    refused(code, errors.UsageError, convert, model, **options)


# ------------------------------------------------------------------------------ the pair
@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_that_is_none(tolerance, model):
    refused(
        "quant.tolerance", errors.UsageError, bj.quant_validate, model, model, tolerance=tolerance
    )


def test_a_metric_that_is_none(model):
    refused("quant.metric", errors.UsageError, bj.quant_validate, model, model, metric="bleu")


def test_a_device_that_is_not_here(model):
    with pytest.raises(errors.Unavailable):
        bj.quant_validate(model, model, device="tpu")


def other_tokenizer(folder):
    file = Path(folder, "tokenizer.json")
    data = json.loads(file.read_text())
    vocabulary = data["model"]["vocab"]
    first, second = list(vocabulary)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(data))


def test_a_reference_that_reads_other_tokens(model):
    float_model("larger.hf", vocab_size=520)
    refused("pair.vocabulary", errors.BadData, bj.quant_validate, model, "larger.hf")
    shutil.copytree(model, "other.hf")
    other_tokenizer("other.hf")
    error = refused("pair.tokenizer", errors.BadData, bj.quant_validate, model, "other.hf")
    assert "first" in error.message


def test_a_reference_of_another_family(model):
    config = json.loads(Path(model, "config.json").read_text())
    shutil.copytree(model, "llama.hf")
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    Path("llama.hf/config.json").write_text(json.dumps(config))
    from safetensors.numpy import load_file, save_file

    tensors = load_file("llama.hf/model.safetensors")
    kept = {name: value for name, value in tensors.items() if "sub_norm" not in name}
    save_file(kept, "llama.hf/model.safetensors", {"format": "pt"})
    refused("pair.family", errors.BadData, bj.quant_validate, "llama.hf", model)
