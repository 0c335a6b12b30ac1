"""Rows of names that families share, to be put together: `(*EMBEDDING, *LAYER_START, ...)`.

Canonical names are those of `blocks.py`; the other column is what most of `transformers`
calls them. A family with other names there has rows of its own, or `renamed` ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.design import Design
from bitnet_jax.models.family import Function, Params
from bitnet_jax.models.parameter import Parameter
from bitnet_jax.quant.rules import Rule

_LAYER = "layers.N."

# Values of fields that mean nothing to a family without sub-norms.
PLAIN: dict[str, Any] = {"sub_norms": (False,)}


def head_size(spec: ModelSpec) -> dict[str, int]:
    """The letter D, for `Family.sizes`: what one head has."""
    return {"D": spec.head_dim}


# Which matrices of these rows are ternary.
RULES = (Rule("layers.*.self_attn.*_proj"), Rule("layers.*.mlp.*_proj"))


def row(name: str, shape: str, ternary: bool = False, needs: str = "") -> Parameter:
    """A parameter that `transformers` calls as we do, below ``model.``."""
    return Parameter(name, f"model.{name}.weight", shape, ternary, needs)


def _matrix(name: str, shape: str) -> Parameter:
    return row(_LAYER + name, shape, ternary=True)


EMBEDDING = (row("embed_tokens", "VH"),)
INPUT_NORM = (row(_LAYER + "input_layernorm", "H"),)
QKV = (
    _matrix("self_attn.q_proj", "QH"),
    _matrix("self_attn.k_proj", "KH"),
    _matrix("self_attn.v_proj", "KH"),
)
OUT = (_matrix("self_attn.o_proj", "HQ"),)
ATTENTION_SUB_NORM = (row(_LAYER + "self_attn.attn_sub_norm", "Q", needs="sub_norms"),)
POST_NORM = (row(_LAYER + "post_attention_layernorm", "H"),)
UP = (_matrix("mlp.up_proj", "IH"),)
GATE_UP = (_matrix("mlp.gate_proj", "IH"), *UP)
FFN_SUB_NORM = (row(_LAYER + "mlp.ffn_sub_norm", "I", needs="sub_norms"),)
DOWN = (_matrix("mlp.down_proj", "HI"),)
QK_NORM = (row(_LAYER + "self_attn.q_norm", "D"), row(_LAYER + "self_attn.k_norm", "D"))
SANDWICH_NORMS = (
    row(_LAYER + "pre_feedforward_layernorm", "H"),
    row(_LAYER + "post_feedforward_layernorm", "H"),
)
FINAL_NORM = (row("norm", "H"),)
HEAD = (Parameter("lm_head", "lm_head.weight", "VH", needs="!tie_embeddings"),)
LINEARS = (*QKV, *OUT, *GATE_UP, *DOWN)


def _beside(row: Parameter, part: str, tail: str, shape: str, needs: str) -> Parameter:
    theirs = row.huggingface.removesuffix(".weight") + tail
    return Parameter(f"{row.name}.{part}", theirs, shape, needs=needs)


def biases(rows: tuple[Parameter, ...], needs: str = "") -> tuple[Parameter, ...]:
    """The biases of linears, where the spec has what `needs` names."""
    return tuple(_beside(row, "bias", ".bias", row.shape[0], needs) for row in rows)


def linear_norms(rows: tuple[Parameter, ...], needs: str) -> tuple[Parameter, ...]:
    """The norms inside of linears (`use_rms_norm` of transformers)."""
    return tuple(_beside(row, "rms_norm", ".rms_norm.weight", row.shape[1], needs) for row in rows)


def fused(rows: tuple[Parameter, ...], name: str) -> tuple[Parameter, ...]:
    """Matrices whose rows stand one after the other in one tensor of a checkpoint."""
    letters = "".join(item.shape[0] for item in rows)
    return tuple(
        replace(item, huggingface=name, fused=letters, part=part) for part, item in enumerate(rows)
    )


def renamed(rows: tuple[Parameter, ...], names: Mapping[str, str]) -> tuple[Parameter, ...]:
    """The rows, their names in `transformers` with each key of `names` replaced by its value."""
    out = []
    for item in rows:
        theirs = item.huggingface
        for old, new in names.items():
            theirs = theirs.replace(old, new)
        out.append(replace(item, huggingface=theirs))
    return tuple(out)


def decoder(design: Callable[[ModelSpec], Design]) -> dict[str, Any]:
    """`Family.init` and `Family.function` of a decoder of our blocks."""

    # The blocks are flax's, half a second to import: looking into a file does without.
    def function(spec: ModelSpec) -> Function:
        from bitnet_jax.models.decoder import decoder_function

        return decoder_function(spec, design(spec))

    def init(spec: ModelSpec, seed: int) -> Params:
        from bitnet_jax.models.decoder import init_decoder

        return init_decoder(spec, design(spec), seed)

    return {"init": init, "function": function}
