"""`config.json` of a `transformers` model: to a `ModelSpec` and back.

What every config shares stands here: token ids, `quantization_config`, the dtype in the
spelling of transformers 4 (`torch_dtype`) and of 5 (`dtype`, which is written). The rest is
its family's (`Family.huggingface`). Code that a config names (`auto_map`) is never
imported. Knows no tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import BadData, BitnetError, CannotCreate, shown
from bitnet_jax.ir.spec import ModelSpec
from bitnet_jax.models.families import ELSEWHERE, FAMILIES, by_huggingface, family_of
from bitnet_jax.models.family import Family
from bitnet_jax.models.huggingface import HuggingFace
from bitnet_jax.models.linear_norms import write_linear_norms
from bitnet_jax.models.missing import MISSING

LINEAR_CLASSES = ("bitlinear", "autobitlinear")
MODES = ("offline", "online")


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
    family = _family(raw, where)
    fields = _fields(family, raw, where)
    tokens = _tokens(raw, generation, fields.get("vocab_size"), where, warnings)
    try:
        spec = family.spec(**(tokens | fields))
    except BadData as error:
        raise BadData("config.value", f"{where}: {error.message}", error.hint) from error
    dtype = raw.get("dtype", raw.get("torch_dtype"))
    dtype = dtype if dtype in ("float32", "bfloat16", "float16") else "float32"
    assert family.huggingface is not None
    quantization = _quantization(raw, family.huggingface, where)
    if raw.get("is_bitnet_config") is True and not quantization.present:
        warnings.append(
            f"{where}: is_bitnet_config without quantization_config: the weights are read as "
            "transformers loads them, as plain floats, unless they are ternary already"
        )
    return Config(spec, quantization, dtype, tuple(warnings))


def _family(raw: Mapping[str, Any], where: str) -> Family:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family, problems = by_huggingface(name, raw.get("model_type"))
    if family is not None:
        return family
    found = f"architecture {shown(name)}" if name else f"model_type {shown(raw.get('model_type'))}"
    known = [f.huggingface.architecture for f in FAMILIES.values() if f.huggingface is not None]
    missing = MISSING.get(name) if isinstance(name, str) else None
    raise BadData(
        "model.unknown_architecture",
        f"{where}: {found} is not known" + (f": it has {missing}" if missing else ""),
        " ".join(["known: " + ", ".join(sorted(known)) + ".", ELSEWHERE, *problems]),
    )


def _fields(family: Family, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    assert family.huggingface is not None
    try:
        return dict(family.huggingface.read(raw, where))
    except BitnetError:
        raise
    # A plugin's function, given whatever a stranger's config holds.
    except Exception as error:
        raise BadData(
            "config.value",
            f"{where}: family `{family.name}` cannot read it: {type(error).__name__}: {error}",
            "is this the right config for these weights?",
        ) from error


def _tokens(
    raw: Mapping[str, Any],
    generation: Mapping[str, Any],
    vocab: Any,
    where: str,
    warnings: list[str],
) -> dict[str, Any]:
    """Token ids; those that end a generation are `generation_config.json`'s, where it has any."""
    eos = generation.get("eos_token_id")
    eos = raw.get("eos_token_id") if eos is None else eos
    eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
    pad = raw.get("pad_token_id")
    if isinstance(pad, int) and isinstance(vocab, int) and not 0 <= pad < vocab:
        # Padding is never fed to the model here, and -1 is a common way to say "none".
        warnings.append(f"{where}: pad_token_id {pad} is outside the vocabulary; ignored")
        pad = None
    return {
        "bos_token_id": raw.get("bos_token_id"),
        "eos_token_ids": tuple(eos),
        "pad_token_id": pad,
    }


def _quantization(raw: Mapping[str, Any], config_of: HuggingFace, where: str) -> Quantization:
    found = raw.get("quantization_config")
    if found is None:
        return Quantization(present=False, mode="online" if config_of.masters else "offline")
    place = f"{where}: quantization_config"
    if not isinstance(found, dict):
        raise BadData("config.value", f"{place} is no JSON object")
    method = found.get("quant_method", "bitnet")
    if method != "bitnet":
        raise BadData(
            "config.unsupported",
            f"{place}: quant_method {shown(method)} is not supported",
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
                f"{place}: {key} {shown(value)} is none of {', '.join(known)}",
                "it says whether weight_scale divides or multiplies: it is never guessed",
            )
    if found.get("use_rms_norm") and not config_of.linear_norms:
        raise BadData(
            "config.unsupported",
            f"{place}: use_rms_norm (a norm inside each linear)",
            "no released BitNet of this architecture has it",
        )
    quantization = Quantization(True, linear_class, mode, _excluded(found, place))
    listed = found.get("modules_to_not_convert") is not None
    if listed and mode == "online" and not quantization.excludes("lm_head"):
        # Left alone, transformers keeps the head float; given a list, only what is in it.
        raise BadData(
            "config.unsupported",
            f"{place}: modules_to_not_convert leaves out lm_head, so that transformers would "
            "quantize the head too; here it stays float",
            "add lm_head to the list, if that is how the model was trained",
        )
    return quantization


def _excluded(found: Mapping[str, Any], place: str) -> tuple[str, ...]:
    keys = found.get("modules_to_not_convert") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise BadData("config.value", f"{place}: modules_to_not_convert is no list of names")
    for key in keys:
        # transformers takes regular expressions; one from a stranger could run for ever.
        if not re.fullmatch(r"[\w.]+", key):
            raise BadData(
                "config.unsupported",
                f"{place}: modules_to_not_convert {shown(key)} is no plain name",
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
    config_of = _huggingface(spec)
    eos = list(spec.eos_token_ids)
    config: dict[str, Any] = {
        "architectures": [config_of.architecture],
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "model_type": config_of.model_type,
        "pad_token_id": spec.pad_token_id,
        "use_cache": True,
        **config_of.write(spec, old_spelling),
    }
    if old_spelling:
        config = {k: v for k, v in config.items() if v is not None}
    config["torch_dtype" if old_spelling else "dtype"] = dtype
    # What the architecture does by itself, its config does not say.
    unsaid = config_of.masters and quantization.mode == "online" and not quantization.excluded
    if quantization.present and not unsaid:
        config["quantization_config"] = {
            "linear_class": quantization.linear_class,
            "quant_method": "bitnet",
            "quantization_mode": quantization.mode,
            **write_linear_norms(spec),
        }
        if quantization.excluded:
            config["quantization_config"]["modules_to_not_convert"] = list(quantization.excluded)
    return dict(sorted(config.items()))


def _huggingface(spec: ModelSpec) -> HuggingFace:
    config_of = family_of(spec.family).huggingface
    if config_of is None:
        raise CannotCreate(
            "huggingface.family",
            f"family `{spec.family}` has no names for a transformers checkpoint",
            "keep it as --format bitnet",
        )
    return config_of


def check_spelling(spec: ModelSpec, quantized: bool = True) -> None:
    """Raises `CannotCreate` unless a config can say what `spec` is.

    A field that its config has no key for would be read back as the family's default, and
    the model would be another one.

    Args:
      quantized: it is written with a `quantization_config`.
    """
    config_of = _huggingface(spec)
    family = family_of(spec.family)
    tokens = ("bos_token_id", "eos_token_ids", "pad_token_id")
    config = config_of.write(spec, False)
    if quantized:
        config = config | {"quantization_config": write_linear_norms(spec)}
    fields = _fields(family, config, f"the config of `{spec.family}`")
    again = family.spec(**({name: getattr(spec, name) for name in tokens} | fields))
    ours, theirs = spec.to_json(), again.to_json()
    lost = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if lost:
        raise CannotCreate(
            "huggingface.config",
            f"a config of family `{spec.family}` cannot say "
            + ", ".join(f"{name} {ours.get(name)}" for name in lost)
            + "; it would be read back as "
            + ", ".join(str(theirs.get(name)) for name in lost),
            "keep it as --format bitnet",
        )
