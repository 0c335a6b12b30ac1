"""SmolLM3 in GGUF files: llama.cpp's architecture `smollm3`.

Its rotary embedding turns neighbouring pairs, as `llama`'s does. No key says which layers know no
positions: it is every fourth one (`llama_model_smollm3::load_arch_hparams`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import llama_gguf, rope_gguf, spelling
from bitnet_jax.models.gguf import Found, Gguf

_STEP = 4


def _letters(layers: int) -> str:
    return "".join("n" if (layer + 1) % _STEP == 0 else "r" for layer in range(layers))


def _fixed(found: Found, fields: Mapping[str, Any]) -> dict[str, Any]:
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    scaling = rope_gguf.read_fields(found, theta, head_dim, None)
    letters = spelling.shortest(_letters(fields["num_layers"]))
    return {"extra": scaling | {"rope_layers": letters}}


def refuses(spec: ModelSpec) -> str | None:
    """Why llama.cpp's `smollm3` cannot hold `spec`."""
    letters = str(spec.extra["rope_layers"])
    if "".join(letters[n % len(letters)] for n in range(spec.num_layers)) != _letters(
        spec.num_layers
    ):
        return "this architecture gives every layer positions but each fourth, and it has others"
    if spec.extra["attention_bias"] or spec.extra["mlp_bias"]:
        return "its linears have biases, which this architecture has no place for"
    return rope_gguf.no_llama3(spec)


GGUF = Gguf(
    architecture="smollm3",
    fixed=_fixed,
    more=rope_gguf.write_keys,
    permuted=llama_gguf.PERMUTED,
    # It loads scales, and does not multiply by them (seen in November 2026: log-probabilities 1.8
    # off).
    scales=lambda name, spec: False,
    refuses=refuses,
)
