"""The BitNet b1.58 family (`BitNetForCausalLM`; arXiv 2504.12285).

RoPE, grouped-query attention, squared ReLU, sub-norms before the output and down
projections, no biases; embedding and head stay float.
"""

from __future__ import annotations

from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.bitnet_config import HUGGINGFACE
from bitnet_jax.models.bitnet_gguf import GGUF
from bitnet_jax.models.family import API, Family, Function, Params
from bitnet_jax.models.parameter import Parameter
from bitnet_jax.quant.rules import Rule

_LAYER = "model.layers.N."

NAMES: tuple[Parameter, ...] = (
    Parameter("embed_tokens", "model.embed_tokens.weight", "VH"),
    Parameter("layers.N.input_layernorm", _LAYER + "input_layernorm.weight", "H"),
    Parameter("layers.N.self_attn.q_proj", _LAYER + "self_attn.q_proj.weight", "QH", True),
    Parameter("layers.N.self_attn.k_proj", _LAYER + "self_attn.k_proj.weight", "KH", True),
    Parameter("layers.N.self_attn.v_proj", _LAYER + "self_attn.v_proj.weight", "KH", True),
    Parameter(
        "layers.N.self_attn.attn_sub_norm",
        _LAYER + "self_attn.attn_sub_norm.weight",
        "Q",
        needs="sub_norms",
    ),
    Parameter("layers.N.self_attn.o_proj", _LAYER + "self_attn.o_proj.weight", "HQ", True),
    Parameter("layers.N.post_attention_layernorm", _LAYER + "post_attention_layernorm.weight", "H"),
    Parameter("layers.N.mlp.gate_proj", _LAYER + "mlp.gate_proj.weight", "IH", True),
    Parameter("layers.N.mlp.up_proj", _LAYER + "mlp.up_proj.weight", "IH", True),
    Parameter(
        "layers.N.mlp.ffn_sub_norm", _LAYER + "mlp.ffn_sub_norm.weight", "I", needs="sub_norms"
    ),
    Parameter("layers.N.mlp.down_proj", _LAYER + "mlp.down_proj.weight", "HI", True),
    Parameter("norm", "model.norm.weight", "H"),
    Parameter("lm_head", "lm_head.weight", "VH", needs="!tie_embeddings"),
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


# The blocks are flax's, half a second to import: looking into a file does without.
def _function(spec: ModelSpec) -> Function:
    from bitnet_jax.models.decoder import decoder_function

    return decoder_function(spec)


def _init(spec: ModelSpec, seed: int) -> Params:
    from bitnet_jax.models.decoder import init_decoder

    return init_decoder(spec, seed)


def _check(spec: ModelSpec) -> str | None:
    if spec.head_dim % 2:
        return f"head_dim {spec.head_dim} is odd; rotary embedding needs pairs"
    return None


FAMILY = Family(
    api=API,
    name="bitnet",
    names=NAMES,
    rules=(Rule("layers.*.self_attn.*_proj"), Rule("layers.*.mlp.*_proj")),
    init=_init,
    function=_function,
    values={"activation": ("relu2", "silu")},
    check=_check,
    huggingface=HUGGINGFACE,
    gguf=GGUF,
    shapes=SHAPES,
)
