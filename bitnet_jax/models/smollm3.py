"""SmolLM3 (`SmolLM3ForCausalLM`): Llama's parts; some layers know no positions (NoPE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models import rope, rows, spelling
from bitnet_jax.models.design import Design, Layer
from bitnet_jax.models.family import API, Family
from bitnet_jax.models.smollm3_gguf import GGUF

_BIASED = (*rows.QKV, *rows.OUT)

NAMES = (
    *rows.EMBEDDING,
    *rows.INPUT_NORM,
    *rows.QKV,
    *rows.OUT,
    *rows.biases(_BIASED, "extra.attention_bias"),
    *rows.POST_NORM,
    *rows.GATE_UP,
    *rows.DOWN,
    *rows.biases((*rows.GATE_UP, *rows.DOWN), "extra.mlp_bias"),
    *rows.FINAL_NORM,
    *rows.HEAD,
)
# Letters of `extra.rope_layers`: r turned, n not.
_ROPE = {"r": 1, "n": 0}


def _read(raw: Mapping[str, Any], where: str) -> dict[str, str]:
    count = raw["num_hidden_layers"]
    listed, interval = raw.get("no_rope_layers"), raw["no_rope_layer_interval"]
    if listed is None:
        listed = [int((n + 1) % interval != 0) for n in range(count)]
    return {
        "rope_layers": spelling.shortest(
            spelling.per_layer(listed, _ROPE, count, "no_rope_layers", where)
        )
    }


def _write(spec: ModelSpec, old: bool) -> dict[str, Any]:
    letters = str(spec.extra["rope_layers"])
    listed = [_ROPE[letters[n % len(letters)]] for n in range(spec.num_layers)]
    return {"no_rope_layers": listed}


PARTS = (
    rope.rope(2000000.0),
    spelling.flags(attention_bias=False, mlp_bias=False),
    spelling.Part({"rope_layers": "rrrn"}, _read, _write),
)


def design(spec: ModelSpec) -> Design:
    """As the spec has it."""
    bias, scaling = bool(spec.extra["attention_bias"]), rope.scaling_of(spec)
    layers = (
        Layer(spec.rope_theta, scaling, rotated=None if letter == "r" else 0)
        for letter in str(spec.extra["rope_layers"])
    )
    return Design(
        tuple(layers), qkv_bias=bias, out_bias=bias, mlp_bias=bool(spec.extra["mlp_bias"])
    )


def _check(spec: ModelSpec) -> str | None:
    letters = str(spec.extra["rope_layers"])
    if not letters or set(letters) - set(_ROPE):
        return f"rope_layers is {letters!r}; it must be of the letters {', '.join(_ROPE)}"
    return rope.rope_fault(spec, spec.head_dim)


FAMILY = Family(
    api=API,
    name="smollm3",
    names=NAMES,
    rules=rows.RULES,
    **rows.decoder(design),
    extra=spelling.extra_of(*PARTS),
    values=rows.PLAIN | {"activation": ("silu",), "tie_embeddings": (True, False)},
    check=_check,
    huggingface=spelling.spelled(
        "SmolLM3ForCausalLM",
        "smollm3",
        *PARTS,
        absent={
            "max_position_embeddings": 32768,
            "no_rope_layer_interval": 4,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
        activations={"silu": "silu"},
        fixed={"use_sliding_window": False},
        in_transformers=True,
    ),
    gguf=GGUF,
)
