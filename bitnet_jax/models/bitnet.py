"""The BitNet b1.58 family (`BitNetForCausalLM`; arXiv 2504.12285).

RoPE, grouped-query attention, squared ReLU, sub-norms before the output and down
projections, no biases; embedding and head stay float.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rows
from bitnet_jax.models.bitnet_config import HUGGINGFACE
from bitnet_jax.models.bitnet_gguf import GGUF
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.parameter import Parameter

NAMES: tuple[Parameter, ...] = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.ATTENTION_SUB_NORM,
    *rows.OUT,
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.FFN_SUB_NORM,
    *rows.DOWN,
    *rows.FINAL_NORM,
    *rows.HEAD,
)

# Token ids of the Llama 3 vocabulary: specials follow the 128000 merges.
_LLAMA3: dict[str, Any] = {
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "eos_token_ids": (128001, 128009),
}

SHAPES: dict[str, ModelSpec] = {
    # microsoft/bitnet-b1.58-2B-4T
    "bitnet-2b-4t": ModelSpec(
        family="bitnet", hidden_size=2560, intermediate_size=6912, num_layers=30, num_heads=20,
        num_kv_heads=5, head_dim=128, max_positions=4096, **_LLAMA3,
    ),
    # the 700M of "The Era of 1-bit LLMs", in this family's blocks
    "700m": ModelSpec(
        family="bitnet", hidden_size=1536, intermediate_size=4096, num_layers=24, num_heads=24,
        num_kv_heads=24, head_dim=64, max_positions=2048, **_LLAMA3,
    ),
    # the size of Llama 3 8B, in this family's blocks
    "8b": ModelSpec(
        family="bitnet", hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
        num_kv_heads=8, head_dim=128, max_positions=8192, tie_embeddings=False, **_LLAMA3,
    ),
    "tiny": ModelSpec(
        family="bitnet", hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=16, max_positions=256, vocab_size=512, bos_token_id=256,
        eos_token_ids=(257, 265),
    ),
}  # fmt: skip


def design(spec: ModelSpec) -> Design:
    """Plain rotary positions, no biases; sub-norms and activation are the spec's."""
    return Design((Layer(spec.rope_theta),))


def check(spec: ModelSpec) -> str | None:
    """What is wrong with a spec, or None."""
    if spec.head_dim % 2:
        return f"head_dim {spec.head_dim} is odd; rotary embedding needs pairs"
    return None


FAMILY = Family(
    api=API,
    name="bitnet",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    values={"activation": ("relu2", "silu")},
    check=check,
    huggingface=HUGGINGFACE,
    gguf=GGUF,
    shapes=SHAPES,
)
