"""Mistral (`MistralForCausalLM`; arXiv 2310.06825): Llama's parts, with a sliding window."""

from __future__ import annotations

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.llama_gguf import MISTRAL

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.OUT,
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.FINAL_NORM,
    *rows.HEAD,
)
PARTS = (rope.rope(10000.0), spelling.WINDOW)


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    window = int(spec.extra["sliding_window"])
    return Design((Layer(spec.rope_theta, rope.scaling_of(spec), window=window),))


FAMILY = Family(
    api=API,
    name="mistral",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("silu",), "tie_embeddings": (False, True)},
    check=lambda spec: rope.rope_fault(spec, spec.head_dim) or spelling.window_fault(spec),
    huggingface=spelling.spelled(
        "MistralForCausalLM",
        "mistral",
        *PARTS,
        absent={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
        },
        activations={"silu": "silu"},
        in_transformers=True,
    ),
    gguf=MISTRAL,
)
