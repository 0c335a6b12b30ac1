"""BitNet b1.58 as 1bitLLM published it (`BitnetForCausalLM`, with a small n; arXiv 2402.17764).

The function is that of `bitnet.py` with a SiLU gate; the norms before the output and the down
projection are called `inner_attn_ln` and `ffn_layernorm`. Its config says `model_type: llama`,
and nothing of `quantization_config`: the architecture itself quantizes its float masters,
at each forward.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import bitnet, rope, rows, spelling
from bitnet_jax.models.bitnet_gguf import GGUF
from bitnet_jax.models.family import API, Family

NAMES = rows.renamed(
    bitnet.NAMES, {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
)

_SHARED: dict[str, Any] = {
    "family": "bitnet-1bitllm", "activation": "silu", "head_dim": 64, "max_positions": 2048,
    "rope_theta": 10000.0, "vocab_size": 32002,
}  # fmt: skip

# 1bitLLM/bitnet_b1_58-large and -xl: the 700M and 1.3B of "The Era of 1-bit LLMs".
# Their special tokens are those of the tokenizer that is made.
SHAPES: dict[str, ModelSpec] = {
    "1bitllm-large": ModelSpec(
        **_SHARED, hidden_size=1536, intermediate_size=4096, num_layers=24, num_heads=24,
        num_kv_heads=24,
    ),
    "1bitllm-xl": ModelSpec(
        **_SHARED, hidden_size=2048, intermediate_size=5460, num_layers=24, num_heads=32,
        num_kv_heads=32,
    ),
}  # fmt: skip


FAMILY = Family(
    api=API,
    name="bitnet-1bitllm",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(bitnet.design),
    values={"activation": ("silu",), "sub_norms": (True,)},
    check=bitnet.check,
    huggingface=spelling.spelled(
        "BitnetForCausalLM",
        "llama",
        rope.plain_rope(10000.0),
        absent={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
        activations={"silu": "silu"},
        # Ternary weights and int8 activations: what is computed here.
        fixed={"attention_bias": False, "input_bits": 8, "weight_bits": 1},
        masters=True,
        released="latent",
    ),
    shapes=SHAPES,
    gguf=GGUF,
)
