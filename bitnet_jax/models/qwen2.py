"""Qwen2 and Qwen2.5 (`Qwen2ForCausalLM`; arXiv 2407.10671): Llama's parts; q, k, v have biases.

A window, where there is one, is in the layers from `max_window_layers` on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.qwen_gguf import QWEN2

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.biases(rows.QKV),
    *rows.OUT,
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.FINAL_NORM,
    *rows.HEAD,
)


def _slides(raw: Mapping[str, Any], layer: int, window: int) -> str:
    return "s" if window and layer >= raw["max_window_layers"] else "f"


WINDOWS = spelling.layered_windows(_slides, switch=True)
PARTS = (rope.rope(10000.0), WINDOWS)


def layers(spec: ModelSpec) -> tuple[Layer, ...]:
    """What tells the layers apart: their windows."""
    scaling = rope.scaling_of(spec)
    windows = spelling.windows_of(spec)
    return tuple(Layer(spec.rope_theta, scaling, window=window) for window in windows)


FAMILY = Family(
    api=API,
    name="qwen2",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(lambda spec: Design(layers(spec), qkv_bias=True)),
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("silu",), "tie_embeddings": (False, True)},
    check=lambda spec: rope.rope_fault(spec, spec.head_dim) or spelling.window_fault(spec),
    huggingface=spelling.spelled(
        "Qwen2ForCausalLM",
        "qwen2",
        *PARTS,
        absent={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "max_window_layers": 28,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
        },
        activations={"silu": "silu"},
        in_transformers=True,
    ),
    gguf=QWEN2,
)
