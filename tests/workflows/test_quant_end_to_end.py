"""`quant` on real files: another implementation's figures, every precision, batches, recipes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bitnet_jax as bj
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.quant.ternary import ternarize
from bitnet_jax.workflows.measured_text import read_windows
from tests.workflows.test_quant_refused import float_model

pytestmark = pytest.mark.heavy
Q, DOWN = "layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)


@pytest.fixture
def llama():
    """A Llama that transformers made: `(model in torch, its folder)`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
    model.save_pretrained("llama.hf")
    float_model("tokens.hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path("tokens.hf", name), "llama.hf")
    return model, "llama.hf"


def torch_logprobs(model, tokens):
    import torch

    with torch.no_grad():
        logits = model(torch.tensor(tokens, dtype=torch.long)).logits[:, :-1].double()
    return torch.log_softmax(logits, -1).numpy()


def quantized(linear):
    """Makes a torch linear compute in ternary weights and int8 activations, from the contract."""
    import torch

    trits, scale = ternarize(linear.weight.detach().numpy())
    weight = torch.tensor(trits.astype(np.float32) * scale)

    def forward(x):
        peak = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        codes = (x * (127 / peak)).round().clamp(-128, 127)
        return codes @ weight.T * (peak / 127)

    linear.forward = forward


def test_a_llama_of_transformers_is_measured_as_torch_measures_it(llama):
    """KL of one linear alone, and of all: computed again in torch, float64 at the end."""
    model, folder = llama
    record = bj.quant_analyze(folder, text="text.txt", tokens=512, length=32)
    windows = read_windows(bj.open_checkpoint(folder), "text.txt", tokens=512, length=32).tokens
    layers = {row["name"]: row for row in record["layers"]}
    assert len(layers) == 14
    p = torch_logprobs(model, windows)
    kl = lambda q: float((np.exp(p) * (p - q)).sum(-1).mean())
    for name in (Q, DOWN):
        linear = model.get_submodule(f"model.{name}")
        quantized(linear)
        found = layers[name]["alone"]["kl"]["value"]
        assert found == pytest.approx(kl(torch_logprobs(model, windows)), rel=2e-3), name
        del linear.forward  # the class's own again
    for name in layers:
        quantized(model.get_submodule(f"model.{name}"))
    assert record["price"]["kl"]["value"] == pytest.approx(
        kl(torch_logprobs(model, windows)), rel=5e-3
    )
    made = bj.quant_convert(folder, "llama.bitnet", text="text.txt", tokens=512)
    assert bj.open_checkpoint("llama.bitnet").spec.family == "llama"
    again = bj.quant_validate("llama.bitnet", folder, metric="kl", text="text.txt", tokens=512,
                              length=32, tolerance=100.0)  # fmt: skip
    assert again["value"] == pytest.approx(record["price"]["kl"]["value"], rel=5e-3)
    assert made["losses"]["loss_before"]["value"] > 0


@pytest.mark.parametrize(("precision", "kind", "bits"), [
    ("1.58", "ternary", 2), ("4", "int4", 4), ("6", "int6", 6), ("8", "int8", 8),
])  # fmt: skip
def test_each_precision_is_written_loaded_and_run(precision, kind, bits):
    float_model("m.hf")
    made = bj.quant_convert("m.hf", "m.bitnet", precision=precision, text="text.txt", tokens=256)
    assert made["quantized"]["precision"] == precision and made["quantized"]["linears"] == 7
    seen = bj.inspect("m.bitnet")
    rows = [row for row in seen["layers"] if "kind" in row]
    assert {row["kind"] for row in rows} == {kind} and len(rows) == 7
    assert bits <= seen["bits_per_weight"] < bits * 1.15
    assert bj.validate("m.bitnet")["counts"]["severity"]["error"] == 0
    model = bj.load("m.bitnet")
    assert len(model.generate([1, 2, 3], max_tokens=4).tokens) <= 4
    passed = bj.quant_validate("m.bitnet", "m.hf", text="text.txt", tokens=256, tolerance=100.0)
    # Its own record says the same of the file as the pair does.
    assert passed["loss_after"] == made["losses"]["loss_after"]
    if kind != "ternary":
        with pytest.raises(CannotCreate) as caught:
            bj.convert("m.bitnet", "back.hf", format="huggingface")
        assert caught.value.code == "huggingface.kind"


def test_a_tolerance_is_met_or_not_with_a_record():
    float_model("m.hf")
    bj.quant_convert("m.hf", "m.bitnet", text="text.txt", tokens=256)
    options = {"text": "text.txt", "tokens": 256}
    itself = bj.quant_validate("m.hf", "m.hf", tolerance=0.0, **options)
    assert itself["passed"] and itself["value"] == 0 and itself["top1_agreement"]["value"] == 1
    for metric in ("ppl", "kl", "logits", "top1"):
        record = bj.quant_validate("m.bitnet", "m.hf", metric=metric, tolerance=0.0, **options)
        assert record["metric"] == metric and record["low"] <= record["value"] <= record["high"]
        assert record["passed"] is (record["value"] <= 0)
    assert not bj.quant_validate("m.bitnet", "m.hf", metric="kl", tolerance=0.0, **options)[
        "passed"
    ]


def test_rules_of_a_recipe_keep_what_they_say():
    float_model("m.hf")
    Path("c.yaml").write_text(
        "rules: [{path: '**.down_proj', to: keep}, {path: '**.*_proj', scale: row}]"
    )
    options = {"recipe": "c.yaml", "text": "text.txt", "tokens": 256}
    made = bj.quant_convert("m.hf", "m.bitnet", **options)
    assert made["quantized"]["linears"] == 6
    rows = {row["name"]: row for row in bj.inspect("m.bitnet")["layers"]}
    assert "kind" not in rows["layers.0.mlp.down_proj"]
    assert rows["layers.0.mlp.up_proj"]["scale_kind"] == "row"
    assert [r["to"] for r in bj.quant_analyze("m.hf", quick=True, **options)["rules"]] == [
        "keep", "ternary",
    ]  # fmt: skip


def test_error_feedback_loses_less_at_each_linear():
    float_model("m.hf")
    made = bj.quant_convert(
        "m.hf", "m.bitnet", method="gptq", text="text.txt", calibration="text.txt", tokens=512
    )
    layers = made["quantized"]["layers"]
    assert len(layers) == 7 and all(0 < row["share_of_plain"] <= 1 for row in layers)
    assert np.mean([row["share_of_plain"] for row in layers]) < 0.7


def test_a_batch_goes_on_where_it_was_and_redoes_what_changed():
    float_model("a.hf")
    options = {"text": "text.txt", "tokens": 256}
    made = bj.quant_convert("a.hf", "a.bitnet", **options)
    again = bj.quant_converted("a.hf", "a.bitnet", **options)
    assert again is not None and again["losses"] == made["losses"]
    assert bj.quant_converted("a.hf", "a.bitnet", precision="4", **options) is None
    assert bj.quant_converted("a.hf", "a.bitnet", **options | {"tokens": 64}) is None
    assert bj.quant_converted("a.hf", "nowhere.bitnet", **options) is None
    Path("a.hf/model.safetensors").unlink()
    float_model("b.hf", change=lambda params: params["norm"].__imul__(2))
    shutil.copy("b.hf/model.safetensors", "a.hf")
    assert bj.quant_converted("a.hf", "a.bitnet", **options) is None
    receipt = json.loads(Path("a.receipt.json").read_text())
    assert receipt["quantized"]["method"] == "absmean" and receipt["losses"] == made["losses"]
    assert bj.validate("a.bitnet", receipt="a.receipt.json", source="a.hf")["findings"]
