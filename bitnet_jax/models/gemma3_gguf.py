"""Gemma 3 in GGUF files: llama.cpp's architecture `gemma3`.

As `gemma`, with norms of queries and keys and behind both halves of a layer. Windows are a size and
a period: every layer has one but each n-th (`llama_hparams::set_swa_pattern`; engines from before
2026 know 6 alone). The scale of attention has no key: llama.cpp computes it from sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import gemma_gguf, rope_gguf, spelling
from bitnet_jax.models.gguf import (
    LLAMA_NAMES,
    QK_NORM_NAMES,
    Found,
    Gguf,
    MetadataKey,
    TensorName,
)

_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_NAMES = (
    *(row for row in LLAMA_NAMES if not row.name.endswith("post_attention_layernorm")),
    *QK_NORM_NAMES,
    *(TensorName(f"layers.N.{ours}", f"blk.N.{theirs}.weight") for ours, theirs in _NORMS.items()),
)
_WINDOW, _PERIOD, _LOCAL = (
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "rope.freq_base_swa",
)
_KEYS = (
    *gemma_gguf.GEMMA_KEYS,
    MetadataKey(_LOCAL, "extra.local_rope_theta", "f32", default=lambda fields: 10000.0),
)
_USUAL_PERIOD = 6
# Google's 27B has this many layers, and llama.cpp knows it by them alone.
_LAYERS_27B = 62


def _letters(period: int, layers: int) -> str:
    return "".join("f" if (layer + 1) % period == 0 else "s" for layer in range(layers))


def period_of(spec: ModelSpec) -> int | None:
    """After how many layers one has no window; None: they are no such row."""
    letters = str(spec.extra["layer_types"])
    whole = "".join(letters[n % len(letters)] for n in range(spec.num_layers))
    some = (_USUAL_PERIOD, *range(1, spec.num_layers + 2))
    return next((n for n in some if _letters(n, spec.num_layers) == whole), None)


def _query_scalar(fields: Mapping[str, Any]) -> int:
    """What llama.cpp takes for `query_pre_attn_scalar`."""
    if fields["num_layers"] == _LAYERS_27B:
        return fields["hidden_size"] // max(fields["num_heads"], 1)
    return fields["head_dim"]


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    rope_gguf.whole_heads(found, head_dim)
    if found.key("final_logit_softcapping"):
        raise BadData(
            "config.unsupported",
            f"{found.where}: gemma3.final_logit_softcapping is "
            f"{shown(found.key('final_logit_softcapping'))}: this package has no softcapped logits",
            None,
        )
    return {
        "activation": "gelu_tanh",
        "extra": {
            **rope_gguf.read_fields(found, theta, head_dim, None),
            **_windows(found, fields["num_layers"]),
            "query_pre_attn_scalar": _query_scalar(fields),
        },
    }


def _windows(found: Found, layers: int) -> dict[str, Any]:
    window, period = found.key(_WINDOW, 0), found.key(_PERIOD, _USUAL_PERIOD)
    for key, value, least in ((_WINDOW, window, 0), (_PERIOD, period, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BadData(
                "config.value",
                f"{found.where}: gemma3.{key} is {shown(value)}; it must be a whole number from "
                f"{least}",
                "is this a model of that architecture, with one value for all layers?",
            )
    letters = spelling.shortest(_letters(period, layers)) if window else "f"
    return {"sliding_window": window if "s" in letters else 0, "layer_types": letters}


def _more(spec: ModelSpec) -> dict[str, tuple[str, Any]]:
    keys = rope_gguf.write_keys(spec)
    if spec.extra["sliding_window"]:
        keys[_WINDOW] = ("u32", spec.extra["sliding_window"])
        keys[_PERIOD] = ("u32", period_of(spec))
    return keys


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `gemma3` cannot hold `spec`."""
    if period_of(spec) is None:
        return (
            "llama.cpp gives a window to every layer of this architecture but each n-th, and "
            f"layer_types is {shown(spec.extra['layer_types'])}"
        )
    ours = spec.extra["query_pre_attn_scalar"]
    theirs = _query_scalar(vars(spec))
    if ours != theirs:
        sizes = "hidden size by heads" if spec.num_layers == _LAYERS_27B else "the width of a head"
        return (
            f"query_pre_attn_scalar is {ours}, and llama.cpp, which has no key for it, takes "
            f"{sizes}, {theirs}"
        )
    return gemma_gguf.no_biases(spec) or rope_gguf.no_llama3(spec)


GGUF = Gguf(
    architecture="gemma3",
    names=_NAMES,
    keys=_KEYS,
    fixed=_fixed,
    more=_more,
    norm_offset=gemma_gguf.NORM_OFFSET,
    scales=gemma_gguf.GGUF.scales,
    refuses=refuses,
)
