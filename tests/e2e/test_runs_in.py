"""Where a model will run: each verdict on an engine that is installed, held against the engine.

`exactly`: its logits are ours, by the parity rules. `as W1.58A16`: they are those of the same
weights with float activations; or, with activations in blocks, near both. `wrongly`: near neither.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from bitnet_jax.analysis.runs_in import ENGINES, RUN, runs_in
from bitnet_jax.core.errors import CannotCreate
from bitnet_jax.formats.open import open_checkpoint
from bitnet_jax.formats.save import save_checkpoint
from bitnet_jax.runtime.model import Model
from bitnet_jax.workflows.export import export_model
from bitnet_jax.workflows.parity import compare_logits
from tests.formats import gguf_models as made
from tests.tiny import tiny_of

SPECS = {
    "relu2": made.wide(2),
    "silu": made.wide(2, activation="silu"),
    "1bitllm": tiny_of("bitnet-1bitllm", **made.WIDE, extra={}),
    "llama": made.wide_llama(2),
    "norms": made.wide_llama(2, {"linear_norms": True}),
    "bfloat16": made.wide(2),
    "mistral": tiny_of("mistral", **made.WIDE, extra={}),
    "qwen2": tiny_of("qwen2", **made.WIDE, extra={}),
    "qwen3": tiny_of("qwen3", **made.WIDE, extra={}),
    "qwen3-128": tiny_of("qwen3", **made.WIDE | {"head_dim": 128}, extra={}),
    "gemma": made.gemma("gemma"),
    "phi": tiny_of("phi", **made.WIDE, activation="gelu_tanh", extra={}),
    "phi-128": tiny_of("phi", **made.WIDE | {"head_dim": 128}, activation="gelu_tanh"),
    "phi3": tiny_of("phi3", **made.WIDE, extra={}),
    "phi3-pad": tiny_of("phi3", **made.WIDE | {"pad_token_id": 3}, extra={}),
    "phi3-half": tiny_of(
        "phi3", **made.WIDE | {"pad_token_id": 3, "rope_theta": 50.0}, extra={"rotary_share": 0.5}
    ),
    "phi3-window": tiny_of("phi3", **made.WIDE, extra={"sliding_window": 9}),
    "gemma-untied": made.gemma("gemma", tie_embeddings=False),
    "gemma3": made.gemma("gemma3"),
    "gemma3-256": made.gemma(
        "gemma3",
        head_dim=256,
        extra={"query_pre_attn_scalar": 256, "sliding_window": 4, "layer_types": "s"},
    ),
    "llama-linear": made.wide_llama(
        2, {"rope_type": "linear", "rope_factor": 16.0}, rope_theta=50.0
    ),
    "smollm3": tiny_of("smollm3", **made.WIDE, extra={"rope_layers": "rn"}),
    "smollm3-4": tiny_of("smollm3", **made.WIDE | {"num_layers": 4}, extra={}),
    "qwen2-128": tiny_of("qwen2", **made.WIDE | {"head_dim": 128}, extra={}),
}
# (model, its weights, format, encoding) -> how transformers and llama.cpp run it.
CASES = {
    ("bfloat16", "ternary", "huggingface", "autobitlinear"): ("exactly", "refused"),
    ("relu2", "ternary", "huggingface", "master"): ("exactly", "refused"),
    ("relu2", "ternary", "huggingface", "autobitlinear"): ("exactly", "refused"),
    ("relu2", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("relu2", "float", "huggingface", "float"): ("exactly", "refused"),
    ("relu2", "ternary", "gguf", "f32"): ("refused", "wrongly"),
    ("relu2", "ternary", "gguf", "tq2_0"): ("refused", "wrongly"),
    ("relu2", "ternary", "gguf", "i2_s"): ("refused", "refused"),
    ("relu2", "ternary", "bitnet", "packed"): ("refused", "refused"),
    ("silu", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("silu", "ternary", "gguf", "f16"): ("refused", "as W1.58A16"),
    ("silu", "ternary", "gguf", "tq1_0"): ("refused", "as W1.58A16"),
    ("1bitllm", "ternary", "huggingface", "master"): ("wrongly", "refused"),
    ("1bitllm", "ternary", "gguf", "tq2_0"): ("refused", "as W1.58A16"),
    ("llama", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("llama", "ternary", "huggingface", "autobitlinear"): ("exactly", "refused"),
    ("llama", "ternary", "gguf", "tq2_0"): ("as W1.58A16", "as W1.58A16"),
    ("llama", "ternary", "gguf", "f32"): ("as W1.58A16", "as W1.58A16"),
    ("llama", "float", "huggingface", "float"): ("exactly", "refused"),
    ("llama", "float", "gguf", "f32"): ("exactly", "exactly"),
    ("norms", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("mistral", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("mistral", "float", "gguf", "f32"): ("exactly", "exactly"),
    ("mistral", "ternary", "gguf", "tq2_0"): ("as W1.58A16", "as W1.58A16"),
    ("qwen2", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("qwen2", "float", "gguf", "f32"): ("exactly", "exactly"),
    ("qwen2", "ternary", "gguf", "f32"): ("as W1.58A16", "as W1.58A16"),
    ("qwen3", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("qwen3", "float", "gguf", "f32"): ("refused", "exactly"),
    ("qwen3-128", "float", "gguf", "f32"): ("exactly", "exactly"),
    ("qwen3-128", "ternary", "gguf", "tq2_0"): ("as W1.58A16", "as W1.58A16"),
    ("gemma", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("phi", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("phi", "float", "gguf", "f32"): ("refused", "exactly"),
    ("phi", "ternary", "gguf", "tq2_0"): ("refused", "as W1.58A16"),
    ("phi3", "float", "huggingface", "float"): ("exactly", "refused"),
    ("phi3", "ternary", "gguf", "f32"): ("refused", "as W1.58A16"),
    ("phi3-pad", "float", "gguf", "f32"): ("exactly", "exactly"),
    ("phi3-pad", "ternary", "gguf", "tq2_0"): ("as W1.58A16", "as W1.58A16"),
    ("phi3-half", "float", "gguf", "f32"): ("wrongly", "exactly"),
    ("gemma", "float", "gguf", "f32"): ("refused", "exactly"),
    ("gemma", "ternary", "gguf", "tq2_0"): ("refused", "as W1.58A16"),
    ("gemma3", "float", "gguf", "f32"): ("wrongly", "exactly"),
    ("gemma3-256", "float", "gguf", "f32"): ("exactly", "exactly"),
    ("gemma3-256", "ternary", "gguf", "tq2_0"): ("as W1.58A16", "as W1.58A16"),
    ("llama-linear", "float", "gguf", "f32"): ("wrongly", "exactly"),
    ("smollm3", "ternary", "huggingface", "bitlinear"): ("exactly", "refused"),
    ("smollm3-4", "float", "gguf", "f32"): ("refused", "exactly"),
    ("smollm3-4", "ternary", "gguf", "tq2_0"): ("refused", "as W1.58A16"),
    ("relu2", "ternary", "onnx", "portable"): ("refused", "refused"),
    ("llama", "ternary", "onnx", "size"): ("refused", "refused"),
    ("llama", "ternary", "onnx", "inference"): ("refused", "refused"),
}
SUFFIX = {"huggingface": ".hf", "gguf": ".gguf", "bitnet": ".bitnet", "onnx": ".onnx"}
# How ONNX Runtime runs the files that it reads, by profile.
PROFILES = {"portable": "exactly", "size": "exactly", "inference": "as W1.58A16"}


def checkpoint_of(model, weights):
    dtype = "bfloat16" if model == "bfloat16" else "float32"
    checkpoint = made.model(SPECS[model], dtype=dtype)
    return checkpoint if weights == "ternary" else made.floats(checkpoint)


def write(case, folder):
    model, weights, format_, encoding = case
    checkpoint = checkpoint_of(model, weights)
    path = folder / f"{'-'.join(case)}{SUFFIX[format_]}"
    if format_ == "onnx":
        source = path.with_suffix(".bitnet")
        save_checkpoint(checkpoint, source)
        export_model(source, path, optimize_for=encoding, probe=False)
        return path
    save_checkpoint(checkpoint, path, format=format_, encoding=encoding)
    return path


def said(path):
    return {row["engine"]: row for row in runs_in(open_checkpoint(path))}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_table_says_what_was_seen(case, tmp_path):
    rows = said(write(case, tmp_path))
    assert (rows["transformers"]["how"], rows["llama.cpp"]["how"]) == CASES[case]
    assert rows["bitnet-jax"]["how"] == "exactly"
    assert rows["ONNX Runtime"]["how"] == PROFILES.get(case[3], "refused")
    assert all(row["reason"] and "{" not in row["reason"] for row in rows.values())


@pytest.mark.parametrize(
    "model", ["gemma-untied", "phi3-window", "phi-128", "smollm3", "qwen2-128", "norms"]
)
def test_nobody_is_sent_to_a_format_that_refuses_the_model(model, tmp_path):
    path = tmp_path / "m.bitnet"
    save_checkpoint(checkpoint_of(model, "ternary"), path)
    with pytest.raises(CannotCreate) as refused:
        save_checkpoint(open_checkpoint(path), tmp_path / "m.gguf")
    for engine in ("llama.cpp", "bitnet.cpp"):
        reason = said(path)[engine]["reason"]
        assert "bitnet model convert" not in reason, refused.value
        assert "not written as one: " in reason


def test_what_is_known_by_running_is_said():
    known = {name for name, engine in ENGINES.items() if engine.known_by == RUN}
    assert known == {"bitnet-jax", "transformers", "llama.cpp", "ONNX Runtime"}


# ------------------------------------------------------------------------- held against them

# Of log-probabilities: seen with float16 caches, with activations in blocks, with another gate.
CACHE, BLOCKS, OTHER = 0.01, 0.06, 0.3
# Seen where bfloat16 is all that an engine takes.
BFLOAT16 = 0.1


@functools.cache
def ours(model, weights):
    from tests.e2e.engines import PROMPT

    return Model(checkpoint_of(model, weights)).logits(np.array([PROMPT]))[0]


def judged(case, answer, how, reason):
    """Whether an engine's answer is what the table says of it; the figures for the failure."""
    from tests.e2e.engines import log_softmax

    model, weights, *_ = case
    if isinstance(answer, str) or how == "refused":
        return isinstance(answer, str) and how == "refused", answer
    exact = log_softmax(ours(model, weights))[-len(answer) :]
    floats = log_softmax(ours(model, "float"))[-len(answer) :] if model != "norms" else exact
    far, near = (float(np.abs(answer - other).max()) for other in (exact, floats))
    good = {
        "exactly": far <= (BFLOAT16 if "bfloat16 only" in reason else CACHE),
        "as W1.58A16": far <= BLOCKS and (near <= CACHE or "by 256" in reason),
        "wrongly": far > OTHER and near > OTHER,
    }[how]
    return good, (far, near)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    return {case: write(case, folder) for case in CASES}


@pytest.fixture(scope="module")
def answers_of_llama_cpp(files):
    from tests.e2e.engines import llama_cpp

    return dict(zip(files, llama_cpp(list(files.values())), strict=True))


@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_llama_cpp_does_what_the_table_says(case, files, answers_of_llama_cpp):
    row = said(files[case])["llama.cpp"]
    good, figures = judged(case, answers_of_llama_cpp[case], row["how"], row["reason"])
    assert good, (row, figures)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_transformers_does_what_the_table_says(case, files):
    from tests.e2e.engines import log_softmax, transformers

    row = said(files[case])["transformers"]
    dtypes = ["float32", "bfloat16"]
    if "bfloat16 only" in row["reason"]:
        dtypes.reverse()
    answer = transformers(files[case], dtypes[0])
    good, figures = judged(case, answer, row["how"], row["reason"])
    assert good, (row, figures)
    if " only: " in row["reason"]:
        assert isinstance(transformers(files[case], dtypes[1]), str)
    if row["how"] == "exactly" and dtypes[0] == "float32":
        # Rule (b) of the numerics contract: one last bit may flip a code, of one token of many.
        parity = compare_logits(log_softmax(ours(case[0], case[1])), answer)
        assert parity.median_logit_difference <= 2e-6, parity


@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_onnx_runtime_does_what_the_table_says(case, files):
    from bitnet_jax.export.measure import decoder_logits, session
    from tests.e2e.engines import PROMPT, onnxruntime

    if case[2] != "onnx":
        assert onnxruntime(files[case]) is not None
        return
    tokens = np.array([PROMPT], np.int32)
    spec = SPECS[case[0]]
    answer = decoder_logits(session(files[case]), spec, tokens, tokens.shape[1] // 2)[0]
    parity = compare_logits(ours(*case[:2]), answer)
    if said(files[case])["ONNX Runtime"]["how"] == "exactly":
        assert parity.median_logit_difference <= 2e-6, parity
    else:  # by blocks of a row: near, and not equal
        assert 1e-4 < parity.max_logit_difference < 0.1, parity
