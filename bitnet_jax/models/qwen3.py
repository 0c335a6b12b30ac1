"""Qwen3 (`Qwen3ForCausalLM`; arXiv 2505.09388): Llama's parts; queries and keys have norms."""

from __future__ import annotations

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import qwen2, rope, rows, spelling
from bitnet_jax.models.design import Design
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.qwen_gguf import QWEN3

_BIASED = (*rows.QKV, *rows.OUT)

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.QK_NORM,
    *rows.OUT,
    *rows.biases(_BIASED, "extra.attention_bias"),
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.FINAL_NORM,
    *rows.HEAD,
)
PARTS = (rope.rope(10000.0), qwen2.WINDOWS, spelling.flags(attention_bias=False))


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    bias = bool(spec.extra["attention_bias"])
    return Design(qwen2.layers(spec), qkv_bias=bias, out_bias=bias, qk_norm=True)


FAMILY = Family(
    api=API,
    name="qwen3",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    sizes=rows.head_size,
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("silu",), "tie_embeddings": (False, True)},
    check=lambda spec: rope.rope_fault(spec, spec.head_dim) or spelling.window_fault(spec),
    huggingface=spelling.spelled(
        "Qwen3ForCausalLM",
        "qwen3",
        *PARTS,
        absent={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_window_layers": 28,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
        },
        activations={"silu": "silu"},
        in_transformers=True,
    ),
    gguf=QWEN3,
)
