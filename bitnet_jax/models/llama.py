"""The Llama architecture (`LlamaForCausalLM`): float, or ternary as it is.

RMSNorm before attention and feed-forward, rotary positions (plain, linear or those of Llama
3.1), grouped-query attention, SiLU gate, biases where the config says so. Its ternary
models (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E) have no sub-norms; with
`use_rms_norm` of `quantization_config` there is a norm inside each linear.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.linear_norms import linear_norm_eps
from bitnet_jax.models.llama_gguf import GGUF

_BIASED = (*rows.QKV, *rows.OUT)

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.OUT,
    *rows.biases(_BIASED, "extra.attention_bias"),
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.biases((*rows.GATE_UP, *rows.DOWN), "extra.mlp_bias"),
    *rows.linear_norms(rows.LINEARS, "extra.linear_norms"),
    *rows.FINAL_NORM,
    *rows.HEAD,
)
PARTS = (
    rope.rope(10000.0),
    spelling.flags(attention_bias=False, mlp_bias=False),
    spelling.NORMS_INSIDE,
)


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    attention_bias = bool(spec.extra["attention_bias"])
    return Design(
        (Layer(spec.rope_theta, rope.scaling_of(spec)),),
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=bool(spec.extra["mlp_bias"]),
        linear_norm_eps=linear_norm_eps(spec),
    )


_FIXED: dict[str, Any] = {"family": "llama", "activation": "silu", "sub_norms": False}
_EXTRA = spelling.extra_of(*PARTS)

SHAPES: dict[str, ModelSpec] = {
    # HF1BitLLM/Llama3-8B-1.58-100B-tokens, of the size of Llama 3 8B (arXiv 2407.21783)
    "llama3-8b-1.58": ModelSpec(
        **_FIXED, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
        num_kv_heads=8, head_dim=128, max_positions=8192, vocab_size=128256,
        tie_embeddings=False, bos_token_id=128000, eos_token_ids=(128001, 128009), extra=_EXTRA,
    ),
    # HuggingFaceTB/SmolLM2-135M; its special tokens are those of the tokenizer that is made
    "smollm2-135m": ModelSpec(
        **_FIXED, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9,
        num_kv_heads=3, head_dim=64, max_positions=8192, rope_theta=100000.0, vocab_size=49152,
        tie_embeddings=True, extra=_EXTRA,
    ),
    "llama-tiny": ModelSpec(
        **_FIXED, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=16, max_positions=256, rope_theta=10000.0, vocab_size=512,
        tie_embeddings=False, bos_token_id=256, eos_token_ids=(257, 265), extra=_EXTRA,
    ),
}  # fmt: skip


FAMILY = Family(
    api=API,
    name="llama",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=_EXTRA,
    values={"activation": ("silu",), "sub_norms": (False,), "tie_embeddings": (False, True)},
    check=lambda spec: rope.rope_fault(spec, spec.head_dim),
    huggingface=spelling.spelled(
        "LlamaForCausalLM",
        "llama",
        *PARTS,
        absent={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
        activations={"silu": "silu"},
        in_transformers=True,
        linear_norms=True,
        released="bitlinear",
    ),
    shapes=SHAPES,
    gguf=GGUF,
)
