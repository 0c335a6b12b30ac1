"""The BitNet b1.58 family (`BitNetForCausalLM`; arXiv 2504.12285).

RoPE, grouped-query attention, squared ReLU, sub-norms before the output and down
projections, no biases; embedding and head stay float.
"""

from __future__ import annotations

from bitnet_jax.models.family import (
    Family,
    decoder_forward,
    decoder_step,
    init_decoder,
)
from bitnet_jax.quant.rules import Rule

FAMILY = Family(
    name="bitnet",
    rules=(Rule("layers.*.self_attn.*_proj"), Rule("layers.*.mlp.*_proj")),
    forward=decoder_forward,
    step=decoder_step,
    init=init_decoder,
)
