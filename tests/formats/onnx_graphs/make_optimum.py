"""Writes the graphs of this folder, by Optimum's exporter; run by hand, in its own environment.

    python3 -m venv /somewhere && /somewhere/bin/pip install torch==2.13.0 optimum-onnx onnxruntime
    /somewhere/bin/python tests/formats/onnx_graphs/make_optimum.py tests/formats/onnx_graphs

`optimum-onnx` 0.1 wants transformers 4.57, and this project's tests use 5. Each graph is a model of
random weights, as small as its family allows; `README.md` says what it was made with.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import onnx
import torch
import transformers as t
from optimum.exporters.onnx import onnx_export_from_model

TINY = dict(
    vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=32, bos_token_id=1, eos_token_id=2,
    pad_token_id=0,
)  # fmt: skip
GROUPED = TINY | dict(num_key_value_heads=1)
GPT2 = dict(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=32, n_inner=24,
            bos_token_id=1, eos_token_id=2)  # fmt: skip
CAUSAL, WITH_PAST, FEATURES = "text-generation", "text-generation-with-past", "feature-extraction"

# name -> model class, config, task, the export's own options
FIRST = {
    "llama_with_past": (t.LlamaForCausalLM, t.LlamaConfig(**GROUPED), WITH_PAST, {}),
    "mistral_with_past": (t.MistralForCausalLM, t.MistralConfig(**GROUPED), WITH_PAST, {}),
    "qwen2_causal": (t.Qwen2ForCausalLM, t.Qwen2Config(**GROUPED), CAUSAL, {}),
    "gpt2_with_past": (t.GPT2LMHeadModel, t.GPT2Config(**GPT2), WITH_PAST, {}),
    "bert": (t.BertModel, t.BertConfig(**TINY), FEATURES, {}),
    "bert_o2": (t.BertModel, t.BertConfig(**TINY), FEATURES, {"optimize": "O2"}),
    "roberta_classes": (
        t.RobertaForSequenceClassification,
        t.RobertaConfig(**TINY | {"max_position_embeddings": 40}),
        "text-classification", {},
    ),
    "resnet": (
        t.ResNetForImageClassification,
        t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                       num_labels=4),
        "image-classification", {},
    ),
}  # fmt: skip
# Added when the code that reads them was done (tests/formats/test_onnx_exporters.py).
LATER = {
    "phi_causal": (
        t.PhiForCausalLM, t.PhiConfig(**TINY | {"partial_rotary_factor": 0.5}), CAUSAL, {},
    ),
    "electra_o3": (
        t.ElectraModel, t.ElectraConfig(**TINY | {"embedding_size": 16}), FEATURES,
        {"optimize": "O3"},
    ),
    "vit_classes": (
        t.ViTForImageClassification,
        t.ViTConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                    num_attention_heads=2, image_size=16, patch_size=8, num_labels=4),
        "image-classification", {},
    ),
    "gemma_with_past": (
        t.GemmaForCausalLM, t.GemmaConfig(**GROUPED | {"head_dim": 8}), WITH_PAST, {},
    ),
    "albert": (t.AlbertModel, t.AlbertConfig(**TINY | {"embedding_size": 16}), FEATURES, {}),
}  # fmt: skip


def main(folder: Path, names: list[str]) -> None:
    for name, (kind, config, task, options) in (FIRST | LATER).items():
        if (folder / f"optimum_{name}.onnx").exists() or (names and name not in names):
            continue
        torch.manual_seed(0)
        model = kind(config).eval()
        with tempfile.TemporaryDirectory() as made:
            onnx_export_from_model(
                model, made, task=task, do_validation=False, no_post_process=True, **options
            )
            found = Path(made) / "model.onnx"
            onnx.checker.check_model(str(found))
            shutil.copy(found, folder / f"optimum_{name}.onnx")
        print(name, (folder / f"optimum_{name}.onnx").stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
