"""Qwen2 and Qwen3 in GGUF files: llama.cpp's architectures `qwen2` and `qwen3`.

Their rotary embedding turns halves, as in `transformers`: no row is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import llama_gguf, rope_gguf
from bitnet_jax.models.gguf import (
    BIAS_NAMES,
    LLAMA_NAMES,
    QK_NORM_NAMES,
    Found,
    Gguf,
    TensorName,
)


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    scaling = rope_gguf.read_fields(found, theta, head_dim, None)
    return {"extra": scaling | {"layer_types": "f" * fields["num_layers"]}}


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `qwen2` or `qwen3` cannot hold `spec`."""
    if spec.extra.get("attention_bias"):
        return "its attention has biases, which this architecture has no place for"
    return rope_gguf.no_llama3(spec) or llama_gguf.windows(spec)


def refuses_qwen2(spec: ModelSpec) -> str | None:
    """The same of `qwen2`, which reads no width of a head."""
    return llama_gguf.other_heads(spec) or refuses(spec)


def _row(
    architecture: str,
    names: tuple[TensorName, ...],
    scales: Callable[[str, ModelSpec], bool],
    refuses: Callable[[ModelSpec], str | None],
) -> Gguf:
    return Gguf(
        architecture=architecture,
        names=(*LLAMA_NAMES, *names),
        fixed=_fixed,
        more=rope_gguf.write_keys,
        scales=scales,
        refuses=refuses,
    )


# llama.cpp loads a scale for every architecture; `qwen2` does not multiply by it (seen in
# November 2026: log-probabilities 1.3 off), `qwen3` does.
QWEN2 = _row("qwen2", BIAS_NAMES, lambda name, spec: False, refuses_qwen2)
QWEN3 = _row("qwen3", QK_NORM_NAMES, lambda name, spec: True, refuses)
