"""Phi-3 and Phi-4 in GGUF files: llama.cpp's architecture `phi3`.

q, k and v are one tensor there, gate and up another, as in `transformers`. Rotary embedding turns
halves: no row is moved. llama.cpp reads the key of the window and gives no layer one
(`llama_model_phi3::load_arch_hparams`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope_gguf
from bitnet_jax.models.gguf import LLAMA_KEYS, LLAMA_NAMES, Found, Gguf, MetadataKey

_FUSED = {
    "blk.N.attn_q.weight": "blk.N.attn_qkv.weight",
    "blk.N.attn_k.weight": "blk.N.attn_qkv.weight",
    "blk.N.attn_v.weight": "blk.N.attn_qkv.weight",
    "blk.N.ffn_gate.weight": "blk.N.ffn_up.weight",
}
_NAMES = tuple(replace(row, gguf=_FUSED.get(row.gguf, row.gguf)) for row in LLAMA_NAMES)
_LONG = ("rope_factors_long.weight", "rope_factors_short.weight")
_WINDOW = MetadataKey("attention.sliding_window", "extra.sliding_window", default=lambda fields: 0)


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    if not found.tensors.isdisjoint(_LONG):
        raise BadData(
            "config.unsupported",
            f"{found.where}: its positions are scaled by longrope ({_LONG[0]}), which is not "
            "supported",
            "known: none and linear",
        )
    share = rope_gguf.read_share(found, head_dim)
    scaling = rope_gguf.read_fields(found, theta, head_dim, None)
    return {"activation": "silu", "extra": scaling | {"rotary_share": share}}


def _more(spec: ModelSpec) -> dict[str, tuple[str, Any]]:
    # llama.cpp's converter writes it for this architecture, whatever the scaling.
    original = {"rope.scaling.original_context_length": ("u32", spec.max_positions)}
    return rope_gguf.write_share(spec) | original


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `phi3` cannot hold `spec`."""
    window = int(spec.extra["sliding_window"])
    if 0 < window < spec.max_positions:
        return (
            f"its attention has a window of {window} of {spec.max_positions} positions, and "
            "llama.cpp has switched the windows of this architecture off (its pull request 13676); "
            "up to the window it computes the same: with max_position_embeddings "
            f"{window} in its config.json it is written"
        )
    return rope_gguf.no_llama3(spec)


GGUF = Gguf(
    architecture="phi3",
    names=_NAMES,
    keys=(*LLAMA_KEYS, _WINDOW),
    fixed=_fixed,
    more=_more,
    # One tensor has one, and its parts have scales of their own.
    scales=lambda name, spec: False,
    refuses=refuses,
)
