"""The real counterpart: llama.cpp loads our GGUF files and computes what we compute.

A file of floats (the same weights, no int8 activations on our side) shows that names, rows,
norms, positions and scales are where llama.cpp looks for them: the rest is its float16 cache. A
ternary model differs by our int8 activations, and in TQ files by those that llama.cpp makes of each
256 (`Q8_K`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bitnet_jax.formats.create_tokenizer import make_tokenizer
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.runtime.model import Model
from bitnet_jax.runtime.tokenizer import Tokenizer
from tests.formats import gguf_models as made
from tests.formats.llama_cpp import ask, log_softmax
from tests.tiny import tiny_of

pytestmark = pytest.mark.heavy

PROMPTS = [list(map(int, np.random.default_rng(n).integers(0, 256, 12))) for n in range(4)]

SPECS = {
    "bitnet with SiLU": made.wide(2, activation="silu"),
    "1bitLLM": tiny_of("bitnet-1bitllm", **made.WIDE, extra={}),
    "llama": made.wide_llama(2),
    "llama, tied, biases, Llama 3.1's positions": made.wide_llama(
        2, {"attention_bias": True, "mlp_bias": True} | made.LLAMA3, tie_embeddings=True
    ),
    "llama, wide heads, linear positions": made.wide_llama(
        2, {"rope_type": "linear", "rope_factor": 2.0}, head_dim=128
    ),
    "mistral": tiny_of("mistral", **made.WIDE),
    "qwen2": tiny_of("qwen2", **made.WIDE, extra={"layer_types": "ff"}),
    "smollm3": tiny_of("smollm3", **made.WIDE | {"num_layers": 5}, extra={"rope_layers": "rrrnr"}),
    "smollm3, tied, linear positions": tiny_of(
        "smollm3",
        **made.WIDE | {"num_layers": 4},
        extra={"rope_type": "linear", "rope_factor": 2.0},
        tie_embeddings=True,
    ),
    "phi": tiny_of("phi", **made.WIDE, activation="gelu_tanh"),
    "phi, a quarter turned, linear positions": tiny_of(
        "phi",
        **made.WIDE,
        activation="gelu_tanh",
        extra={"rotary_share": 0.25, "rope_type": "linear", "rope_factor": 2.0},
    ),
    "phi3": tiny_of("phi3", **made.WIDE),
    "phi3, tied, three quarters turned, linear positions, a window that holds all": tiny_of(
        "phi3",
        **made.WIDE,
        tie_embeddings=True,
        extra={
            "rotary_share": 0.75,
            "rope_type": "linear",
            "rope_factor": 2.0,
            "sliding_window": 256,
        },
    ),
    "gemma": made.gemma("gemma"),
    "gemma, wide heads, linear positions": made.gemma(
        "gemma", head_dim=128, extra={"rope_type": "linear", "rope_factor": 2.0}
    ),
    "gemma3, no window": made.gemma("gemma3"),
    "gemma3, every layer but the sixth in a window of 4": made.gemma(
        "gemma3",
        num_layers=6,
        rope_theta=1000000.0,
        extra={"sliding_window": 4, "layer_types": "sssssf"},
    ),
    "gemma3, untied, every other layer, linear positions, another local base": made.gemma(
        "gemma3",
        head_dim=128,
        num_layers=4,
        tie_embeddings=False,
        rope_theta=1000000.0,
        extra={
            "sliding_window": 5,
            "layer_types": "sf",
            "local_rope_theta": 500.0,
            "rope_type": "linear",
            "rope_factor": 8.0,
            "query_pre_attn_scalar": 128,
        },
    ),
    "gemma3, every layer in a window": made.gemma(
        "gemma3", extra={"sliding_window": 3, "layer_types": "s"}
    ),
    "qwen3": tiny_of("qwen3", **made.WIDE | {"head_dim": 128}, extra={"layer_types": "ff"}),
}
# Seen in November 2026, the largest of 4 x 512 log-probabilities.
FLOAT, TERNARY, BLOCKS = 0.002, 0.05, 0.06


def ours(checkpoint) -> np.ndarray:
    return log_softmax(Model(checkpoint).logits(np.array(PROMPTS))[:, -1])


@pytest.mark.parametrize("awkward", [False, True], ids=["scales in blocks", "scales beside them"])
@pytest.mark.parametrize("case", SPECS)
def test_llama_cpp_computes_the_same(case, awkward, tmp_path):
    model = made.model(SPECS[case], awkward=awkward)
    paths = [tmp_path / f"{name}.gguf" for name in ("float", "f32", "f16", "tq2_0", "tq1_0")]
    save_checkpoint(made.floats(model), paths[0], encoding="f32")
    for path in paths[1:]:
        save_checkpoint(model, path, encoding=path.stem)
    answers = ask(paths, prompts=PROMPTS)
    assert not [answer for answer in answers if "error" in answer]
    wanted = ours(model)
    differ = [np.abs(answer["logprobs"] - wanted).max() for answer in answers]
    differ[0] = np.abs(answers[0]["logprobs"] - ours(made.floats(model))).max()
    assert differ[0] <= FLOAT and max(differ[1:3]) <= TERNARY, differ
    assert max(differ[3:]) <= BLOCKS, differ
    # Both hold the same trits and scales, and llama.cpp computes with both alike.
    np.testing.assert_array_equal(answers[3]["logprobs"], answers[4]["logprobs"])


def of_transformers(family):
    """A random model of transformers' own, its norms away from where they begin."""
    import torch
    import transformers

    sizes = {
        "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 256,
        "eos_token_id": 257, "pad_token_id": None, "num_hidden_layers": 2,
    }  # fmt: skip
    own = {
        "phi3": ("Phi3", "Phi3", {"sliding_window": 256}),
        "gemma": ("Gemma", "Gemma", {"head_dim": 64}),
        "gemma3": ("Gemma3Text", "Gemma3", {
            "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 5,
            "num_hidden_layers": 7,
        }),
    }  # fmt: skip
    config, model, more = own[family]
    torch.manual_seed(0)
    found = getattr(transformers, f"{model}ForCausalLM")(
        getattr(transformers, f"{config}Config")(**sizes | more)
    ).eval()
    for name, value in found.named_parameters():
        if "norm" in name:
            value.data.normal_(float(family == "phi3"), 0.2)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["phi3", "gemma", "gemma3"])
def test_llama_cpp_computes_what_transformers_does(family, tmp_path):
    import torch

    theirs = of_transformers(family)
    theirs.save_pretrained(tmp_path / "m.hf")
    checkpoint = open_checkpoint(tmp_path / "m.hf")
    checkpoint = dataclasses.replace(checkpoint, tokenizer=make_tokenizer(checkpoint.spec))
    save_checkpoint(checkpoint, tmp_path / "m.gguf", encoding="f32")
    (answer,) = ask([tmp_path / "m.gguf"], prompts=PROMPTS)
    with torch.no_grad():
        wanted = log_softmax(theirs(torch.tensor(PROMPTS)).logits[:, -1].numpy())
    assert np.abs(answer["logprobs"] - wanted).max() <= FLOAT


def test_squared_relu_is_run_as_silu_which_is_what_the_warning_says(tmp_path):
    model = made.model(made.wide(2))
    path = tmp_path / "m.gguf"
    saved = save_checkpoint(model, path, encoding="f32")
    assert any("squared ReLU" in warning for warning in saved.warnings)
    (answer,) = ask([path], prompts=PROMPTS)
    # When this fails, llama.cpp has learned the key: the warning goes.
    assert np.abs(answer["logprobs"] - ours(model)).max() > 0.5


def test_i2_s_is_refused_by_llama_cpp_as_the_warning_says(tmp_path):
    path = tmp_path / "m.gguf"
    saved = save_checkpoint(made.model(made.wide(activation="silu")), path, encoding="i2_s")
    assert any("llama.cpp refuses it" in warning for warning in saved.warnings)
    assert "error" in ask([path])[0]


@pytest.mark.parametrize("encoding", ["f32+q8_0", "tq2_0+q4_0", "tq2_0+f16", "tq2_0+bf16"])
def test_a_rounded_embedding_is_the_one_we_read_back(encoding, tmp_path):
    path = tmp_path / "m.gguf"
    save_checkpoint(made.model(SPECS["llama"]), path, encoding=encoding)
    (answer,) = ask([path], prompts=PROMPTS)
    # The activations that meet an embedding of blocks are rounded to blocks too.
    assert np.abs(answer["logprobs"] - ours(open_checkpoint(path))).max() <= 0.08


TRICKY = (
    "", " ", "  two", "a\n\nb", "tab\tand\r\nlines", "don't I'LL we've", "1234567 3.14 12 a1b2",
    "été naïve façade", "русский текст", "你好，世界", "🙂👩\u200d👩\u200d👧 flag 🇫🇷",
    "<|eot_id|> <|end_of_text|>",
    "x" * 40, "   trailing   ", "camelCase_snake-kebab/path.py", "\u00a0nbsp\u2003em", "ﬁ ligature",
    "e\u0301 combining", "def f(x):\n    return x**2  # ok\n",
)  # fmt: skip


@pytest.mark.parametrize("case", ["bitnet with SiLU", "llama"])
def test_llama_cpp_makes_the_same_tokens(case, tmp_path):
    model = made.model(SPECS[case])
    path = tmp_path / "m.gguf"
    save_checkpoint(model, path, encoding="tq2_0")
    (answer,) = ask([path], texts=TRICKY)
    tokenizer = Tokenizer.from_files(model.tokenizer)
    assert answer["tokens"] == [tokenizer.encode(text) for text in TRICKY]
