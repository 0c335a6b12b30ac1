"""Gemma (`GemmaForCausalLM`; arXiv 2403.08295).

The gate is GELU with tanh; embeddings are multiplied by the square root of their size, which the
head is not; a norm's weight stands for itself and 1. What the parameters hold is what the
files hold.
"""

from __future__ import annotations

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.gemma_gguf import GGUF

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
    *rows.FINAL_NORM,
    *rows.HEAD,
)
ONE_WAY = spelling.without(use_bidirectional_attention="attention that looks ahead")
PARTS = (rope.rope(10000.0), spelling.flags(attention_bias=False), ONE_WAY)
# The released configs say `gelu` and mean the tanh form, as transformers has it.
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    bias = bool(spec.extra["attention_bias"])
    return Design(
        (Layer(spec.rope_theta, rope.scaling_of(spec)),),
        qkv_bias=bias,
        out_bias=bias,
        norm_offset=1.0,
        embedding_scale=spec.hidden_size**0.5,
    )


FAMILY = Family(
    api=API,
    name="gemma",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("gelu_tanh",), "tie_embeddings": (True, False)},
    check=lambda spec: rope.rope_fault(spec, spec.head_dim),
    may_be_zero=("*norm",),
    huggingface=spelling.spelled(
        "GemmaForCausalLM",
        "gemma",
        *PARTS,
        absent={
            "head_dim": 256,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 16,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
        activations=ACTIVATIONS,
        in_transformers=True,
    ),
    gguf=GGUF,
)
