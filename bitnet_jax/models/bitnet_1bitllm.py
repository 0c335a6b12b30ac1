"""BitNet b1.58 as 1bitLLM published it (`BitnetForCausalLM`, with a small n; arXiv 2402.17764).

The function is that of `bitnet.py` with a SiLU gate; the norms before the output and the down
projection are called `inner_attn_ln` and `ffn_layernorm`. Its config says `model_type: llama`,
and nothing of `quantization_config`: the architecture itself quantizes its float masters,
at each forward.
"""

from __future__ import annotations

from bitnet_jax.models import bitnet, rope, rows, spelling
from bitnet_jax.models.bitnet_gguf import GGUF
from bitnet_jax.models.family import API, Family

NAMES = rows.renamed(
    bitnet.NAMES, {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
)

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
    ),
    gguf=GGUF,
)
