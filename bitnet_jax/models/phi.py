"""Phi-1, Phi-1.5 and Phi-2 (`PhiForCausalLM`; arXiv 2309.05463).

LayerNorm, one for attention and feed-forward side by side; biases everywhere; GELU with tanh and
no gate; half of each head is turned.
"""

from __future__ import annotations

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.parameter import Parameter
from bitnet_jax.models.phi_gguf import GGUF

_THEIRS = {
    "self_attn.o_proj": "self_attn.dense",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
    "model.norm": "model.final_layernorm",
}
_LINEARS = (*rows.QKV, *rows.OUT, *rows.UP, *rows.DOWN)

NAMES = (
    *rows.renamed(
        (
            *rows.EMBEDDING,
            *rows.INPUT_NORM,
            *rows.biases(rows.INPUT_NORM),
            *_LINEARS,
            *rows.biases(_LINEARS),
            *rows.FINAL_NORM,
            *rows.biases(rows.FINAL_NORM),
        ),
        _THEIRS,
    ),
    *rows.HEAD,
    Parameter("lm_head.bias", "lm_head.bias", "V"),
)
PARTS = (
    rope.partial_rope(10000.0, 0.5),
    spelling.without(qk_layernorm="LayerNorm of queries and keys"),
)


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    return Design(
        (Layer(spec.rope_theta, rope.scaling_of(spec), rope.rotated_of(spec)),),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
        layer_norm=True,
        parallel=True,
        gated=False,
    )


FAMILY = Family(
    api=API,
    name="phi",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=spelling.extra_of(*PARTS),
    # The head has a bias, which a tied one here has not.
    values=rows.PLAIN | {"activation": ("gelu_tanh",), "tie_embeddings": (False,)},
    check=rope.share_fault,
    huggingface=spelling.spelled(
        "PhiForCausalLM",
        "phi",
        *PARTS,
        absent={
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
        },
        activations={"gelu_new": "gelu_tanh"},
        norm_key="layer_norm_eps",
        in_transformers=True,
    ),
    gguf=GGUF,
)
