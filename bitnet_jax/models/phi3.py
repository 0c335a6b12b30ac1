"""Phi-3 and Phi-4 (`Phi3ForCausalLM`; arXiv 2404.14219): Llama's parts.

Its files hold q, k and v as one matrix, gate and up as another; here each is its own.
"""

from __future__ import annotations

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.phi3_gguf import GGUF

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.fused(rows.QKV, "model.layers.N.self_attn.qkv_proj.weight"),
    *rows.OUT,
    *rows.POST_NORM,
    *rows.fused(rows.GATE_UP, "model.layers.N.mlp.gate_up_proj.weight"),
    *rows.DOWN,
    *rows.FINAL_NORM,
    *rows.HEAD,
)
PARTS = (rope.partial_rope(10000.0, 1.0), spelling.WINDOW)


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    rotated, window = rope.rotated_of(spec), int(spec.extra["sliding_window"])
    return Design((Layer(spec.rope_theta, rope.scaling_of(spec), rotated, window),))


def _check(spec: ModelSpec) -> str | None:
    if spec.head_dim * spec.num_heads != spec.hidden_size:
        return f"head_dim {spec.head_dim} must be hidden_size by num_heads"
    return rope.share_fault(spec) or spelling.window_fault(spec)


FAMILY = Family(
    api=API,
    name="phi3",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("silu",), "tie_embeddings": (False, True)},
    check=_check,
    huggingface=spelling.spelled(
        "Phi3ForCausalLM",
        "phi3",
        *PARTS,
        absent={
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
        activations={"silu": "silu"},
        in_transformers=True,
    ),
    gguf=GGUF,
)
