"""`config.json` of a `transformers` model: to a `ModelSpec` and back.

Reads the spelling of transformers 4 (`rope_theta`, `torch_dtype`) and of 5
(`rope_parameters`, `dtype`), writes the latter. Code that a config names
(`auto_map`) is never imported. Knows no tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import BadData
from bitnet_jax.ir.spec import ModelSpec

# architectures[0] -> family
ARCHITECTURES: dict[str, str] = {"BitNetForCausalLM": "bitnet"}
MODEL_TYPES: dict[str, str] = {"bitnet": "bitnet"}
LINEAR_CLASSES = ("bitlinear", "autobitlinear")
MODES = ("offline", "online")

# config.json key -> spec field, for the numbers that are spelled one way only.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
# What transformers assumes of a key that is absent, unlike our own defaults.
_DEFAULT_POSITIONS = 2048
_DEFAULT_THETA = 500000.0


@dataclass(frozen=True)
class Quantization:
    """What `quantization_config` says of the stored weights.

    Attributes:
      present: there is one; without it `transformers` loads plain float linears.
      linear_class: ``bitlinear`` divides by weight_scale, ``autobitlinear`` multiplies.
      mode: ``online``: weights are float masters, quantized at load.
      excluded: modules that stay float, as name prefixes or suffixes.
    """

    present: bool
    linear_class: str = "bitlinear"
    mode: str = "offline"
    excluded: tuple[str, ...] = ()

    def excludes(self, module: str) -> bool:
        """True when `module` (a full name) stays float."""
        return any(
            module == key or module.startswith(key + ".") or module.endswith(key)
            for key in self.excluded
        )


@dataclass(frozen=True)
class Config:
    """A parsed `config.json`; `dtype` is the float dtype its weights stand for."""

    spec: ModelSpec
    quantization: Quantization
    dtype: str
    warnings: tuple[str, ...]


def parse(raw: Any, generation: Mapping[str, Any], where: str) -> Config:
    """Reads a config; `generation` is `generation_config.json`, or empty.

    Raises:
      BadData: a value is absurd, or means something this package does not do
        (codes ``config.value``, ``config.unsupported``, ``model.unknown_architecture``).
    """
    if not isinstance(raw, dict):
        raise BadData("config.value", f"{where} is no JSON object", "is this the right file?")
    warnings: list[str] = []
    if "auto_map" in raw:
        warnings.append(
            f"{where}: auto_map names code in the checkpoint; it is ignored, and never imported"
        )
    sizes: dict[str, Any] = {
        "family": _family(raw, where),
        **{field: _required(raw, key, where) for key, field in _SIZES.items()},
        **_heads(raw, where),
        **_tokens(raw, generation, where, warnings),
    }
    spec = ModelSpec(
        **sizes,
        max_positions=raw.get("max_position_embeddings", _DEFAULT_POSITIONS),
        rope_theta=_rope_theta(raw, where),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-5),
        activation=raw.get("hidden_act", "relu2"),
        sub_norms=True,
        tie_embeddings=_boolean(raw, "tie_word_embeddings", where),
    )
    if _boolean(raw, "attention_bias", where) or _boolean(raw, "mlp_bias", where):
        raise BadData(
            "config.unsupported", f"{where}: this model has biases, which no BitNet has here", None
        )
    try:
        spec.validate()
    except BadData as error:
        raise BadData("config.value", f"{where}: {error.message}", error.hint) from error
    dtype = raw.get("dtype", raw.get("torch_dtype"))
    dtype = dtype if dtype in ("float32", "bfloat16", "float16") else "float32"
    return Config(spec, _quantization(raw, where), dtype, tuple(warnings))


def _family(raw: Mapping[str, Any], where: str) -> str:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if name is None and raw.get("model_type") in tuple(MODEL_TYPES):
        return MODEL_TYPES[raw["model_type"]]
    found = f"architecture {name!r}" if name else f"model_type {raw.get('model_type')!r}"
    raise BadData(
        "model.unknown_architecture",
        f"{where}: {found} is not known",
        "known: " + ", ".join(sorted(ARCHITECTURES)),
    )


def _required(raw: Mapping[str, Any], key: str, where: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        found = "is missing" if key not in raw else f"is {value!r}"
        raise BadData(
            "config.value",
            f"{where}: {key} {found}; it must be a positive whole number",
            "is this the right config for these weights?",
        )
    return value


def _boolean(raw: Mapping[str, Any], key: str, where: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise BadData("config.value", f"{where}: {key} is {value!r}, neither true nor false")
    return value


def _heads(raw: Mapping[str, Any], where: str) -> dict[str, int]:
    hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
    kv_heads = raw.get("num_key_value_heads")
    head_dim = raw.get("head_dim")
    if head_dim is None and hidden % heads:
        raise BadData(
            "config.value",
            f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}",
            "is this the right config for these weights?",
        )
    return {
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "head_dim": hidden // heads if head_dim is None else head_dim,
    }


def _rope_theta(raw: Mapping[str, Any], where: str) -> float:
    """The base, from `rope_parameters` (5.x) or `rope_theta` and `rope_scaling` (4.x)."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise BadData("config.value", f"{where}: rope parameters {rope!r} are no JSON object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise BadData(
            "config.unsupported",
            f"{where}: rope_type {kind!r} is not supported",
            "only the default rotary embedding is; no released BitNet uses another",
        )
    return rope.get("rope_theta", raw.get("rope_theta", _DEFAULT_THETA))


def _tokens(
    raw: Mapping[str, Any], generation: Mapping[str, Any], where: str, warnings: list[str]
) -> dict[str, Any]:
    """Token ids; those that end a generation are `generation_config.json`'s, where it has any."""
    eos = generation.get("eos_token_id")
    eos = raw.get("eos_token_id") if eos is None else eos
    eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
    pad = raw.get("pad_token_id")
    vocab = raw["vocab_size"]
    if isinstance(pad, int) and not 0 <= pad < vocab:
        # Padding is never fed to the model here, and -1 is a common way to say "none".
        warnings.append(f"{where}: pad_token_id {pad} is outside the vocabulary; ignored")
        pad = None
    return {
        "bos_token_id": raw.get("bos_token_id"),
        "eos_token_ids": tuple(eos),
        "pad_token_id": pad,
    }


def _quantization(raw: Mapping[str, Any], where: str) -> Quantization:
    found = raw.get("quantization_config")
    if found is None:
        return Quantization(present=False)
    place = f"{where}: quantization_config"
    if not isinstance(found, dict):
        raise BadData("config.value", f"{place} is no JSON object")
    method = found.get("quant_method", "bitnet")
    if method != "bitnet":
        raise BadData(
            "config.unsupported",
            f"{place}: quant_method {method!r} is not supported",
            "known: bitnet; dequantize the model with its own tool first",
        )
    linear_class = found.get("linear_class", "bitlinear")
    mode = found.get("quantization_mode", "offline")
    for key, value, known in (
        ("linear_class", linear_class, LINEAR_CLASSES),
        ("quantization_mode", mode, MODES),
    ):
        if value not in known:
            raise BadData(
                "config.value",
                f"{place}: {key} {value!r} is none of {', '.join(known)}",
                "it says whether weight_scale divides or multiplies: it is never guessed",
            )
    if found.get("use_rms_norm"):
        raise BadData(
            "config.unsupported",
            f"{place}: use_rms_norm (a norm inside each linear)",
            "no released BitNet of this architecture has it",
        )
    return Quantization(True, linear_class, mode, _excluded(found, place))


def _excluded(found: Mapping[str, Any], place: str) -> tuple[str, ...]:
    keys = found.get("modules_to_not_convert") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise BadData("config.value", f"{place}: modules_to_not_convert is no list of names")
    for key in keys:
        # transformers takes regular expressions; one from a stranger could run for ever.
        if not re.fullmatch(r"[\w.]+", key):
            raise BadData(
                "config.unsupported",
                f"{place}: modules_to_not_convert {key!r} is no plain name",
                "list the modules' names",
            )
    return tuple(keys)


def spell(
    spec: ModelSpec,
    quantization: Quantization,
    dtype: str,
    *,
    old_spelling: bool = False,
) -> dict[str, Any]:
    """Writes a config, as transformers 5 does, or as 4 did (`old_spelling`)."""
    architecture = next(name for name, family in ARCHITECTURES.items() if family == spec.family)
    eos = list(spec.eos_token_ids)
    config: dict[str, Any] = {
        "architectures": [architecture],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "hidden_act": spec.activation,
        "hidden_size": spec.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate_size,
        "max_position_embeddings": spec.max_positions,
        "model_type": spec.family,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "num_key_value_heads": spec.num_kv_heads,
        "pad_token_id": spec.pad_token_id,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
        "use_cache": True,
        "vocab_size": spec.vocab_size,
    }
    if spec.head_dim * spec.num_heads != spec.hidden_size:
        config["head_dim"] = spec.head_dim
    if old_spelling:
        # What equals transformers 4's own default is not written there.
        unsaid = ("attention_bias", "attention_dropout")
        config = {k: v for k, v in config.items() if v is not None and k not in unsaid}
        config |= {"rope_theta": spec.rope_theta, "torch_dtype": dtype}
    else:
        rope = {"rope_theta": spec.rope_theta, "rope_type": "default"}
        config |= {"dtype": dtype, "rope_parameters": rope}
    if quantization.present:
        config["quantization_config"] = {
            "linear_class": quantization.linear_class,
            "quant_method": "bitnet",
            "quantization_mode": quantization.mode,
        }
        if quantization.excluded:
            config["quantization_config"]["modules_to_not_convert"] = list(quantization.excluded)
    return dict(sorted(config.items()))
