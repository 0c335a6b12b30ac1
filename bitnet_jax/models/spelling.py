"""A `config.json` put together from parts that families share, each read and written here.

A family says what an absent key means, which activations it knows, which keys have one value
only, and which `Part`s it has; each part may add fields of its own to `ModelSpec.extra`.
Knows no family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec, Scalar
from bitnet_jax.models import config_keys, linear_norms
from bitnet_jax.models.huggingface import HuggingFace


@dataclass(frozen=True)
class Part:
    """Some keys of a config that belong together.

    Attributes:
      fields: what it adds to `ModelSpec.extra`, with the defaults.
      read: ``(config, where) -> fields``: those of `fields`, and fields of the spec itself.
      write: ``(spec, old) -> keys``.
    """

    fields: Mapping[str, Scalar]
    read: Callable[[Mapping[str, Any], str], Mapping[str, Any]]
    write: Callable[[ModelSpec, bool], Mapping[str, Any]]


def flags(**defaults: bool) -> Part:
    """Truths that are called the same in the config and in `extra`."""

    def read(raw: Mapping[str, Any], where: str) -> dict[str, bool]:
        return {key: config_keys.boolean(raw, key, where, value) for key, value in defaults.items()}

    def write(spec: ModelSpec, old: bool) -> dict[str, Any]:
        return {key: spec.extra[key] for key in defaults}

    return Part(defaults, read, write)


def without(**keys: str) -> Part:
    """Keys that must be absent, null or false, with what they ask for."""

    def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        for key, asks in keys.items():
            if raw.get(key) not in (None, False):
                raise BadData(
                    "config.unsupported",
                    f"{where}: {key} is {shown(raw[key])}; {asks}: this package has no such part",
                    None,
                )
        return {}

    return Part({}, read, lambda spec, old: {})


# What it has to say stands in `quantization_config`, which `formats` writes.
NORMS_INSIDE = Part(linear_norms.LINEAR_NORMS, linear_norms.read_linear_norms, lambda spec, old: {})


# ------------------------------------------------------------------------ sliding windows
def _window(raw: Mapping[str, Any], where: str) -> int:
    """`sliding_window`, 0 where there is none."""
    value = raw.get("sliding_window")
    return 0 if value is None else config_keys.required(raw, "sliding_window", where)


# One window in all layers.
WINDOW = Part(
    {"sliding_window": 0},
    lambda raw, where: {"sliding_window": _window(raw, where)},
    lambda spec, old: {"sliding_window": spec.extra["sliding_window"] or None},
)
# Letters of `extra.layer_types`, and what a config calls them.
LAYER_TYPES = {"f": "full_attention", "s": "sliding_attention"}


def layered_windows(
    derived: Callable[[Mapping[str, Any], int, int], str],
    window: Callable[[Mapping[str, Any], str], int] = _window,
    switch: bool = False,
) -> Part:
    """A window in some layers.

    Args:
      derived: ``(config, layer, window) -> letter``, where the config lists no `layer_types`.
      window: of a config.
      switch: `use_sliding_window` says whether there is one.
    """

    def read(raw: Mapping[str, Any], where: str) -> dict[str, Scalar]:
        on = config_keys.boolean(raw, "use_sliding_window", where, not switch)
        size = window(raw, where) if on else 0
        layers = config_keys.required(raw, "num_hidden_layers", where)
        listed = raw.get("layer_types")
        if listed is None:
            letters = "".join(derived(raw, n, size) for n in range(layers))
        else:
            letters = per_layer(listed, LAYER_TYPES, layers, "layer_types", where)
        if "s" not in letters:
            size = 0  # nothing slides
        elif not size:
            raise BadData(
                "config.value", f"{where}: layer_types slide, and there is no sliding_window", None
            )
        return {"sliding_window": size, "layer_types": shortest(letters)}

    def write(spec: ModelSpec, old: bool) -> dict[str, Any]:
        letters = str(spec.extra["layer_types"])
        size = spec.extra["sliding_window"] or None
        listed = [LAYER_TYPES[letters[n % len(letters)]] for n in range(spec.num_layers)]
        said = {"use_sliding_window": size is not None} if switch else {}
        return said | {"sliding_window": size, "layer_types": listed}

    return Part({"sliding_window": 0, "layer_types": "f"}, read, write)


def windows_of(spec: ModelSpec) -> tuple[int, ...]:
    """The window of each layer in turn, 0 where there is none."""
    size = int(spec.extra["sliding_window"])
    return tuple(size if letter == "s" else 0 for letter in str(spec.extra["layer_types"]))


def window_fault(spec: ModelSpec) -> str | None:
    """What is wrong with the fields of the windows, or None."""
    size, letters = spec.extra["sliding_window"], spec.extra.get("layer_types", "s")
    if not isinstance(size, int) or size < 0:
        return f"sliding_window is {shown(size)}; it must be a whole number, 0 for none"
    if not letters or set(str(letters)) - set(LAYER_TYPES):
        return (
            f"layer_types is {shown(letters)}; it must be of the letters {', '.join(LAYER_TYPES)}"
        )
    if "layer_types" in spec.extra and ("s" in str(letters)) != (size > 0):
        return f"layer_types is {shown(letters)}, and sliding_window {size}"
    return None


# ---------------------------------------------------------------------- layers that differ
def per_layer(listed: Any, letters: Mapping[str, Any], layers: int, key: str, where: str) -> str:
    """A list with an entry for each layer, as a letter for each."""
    names = {value: letter for letter, value in letters.items()}
    good = isinstance(listed, list) and len(listed) == layers
    if not good or not all(isinstance(item, str | int) and item in names for item in listed):
        raise BadData(
            "config.value",
            f"{where}: {key} {shown(listed)} is no list of {layers} of: "
            f"{', '.join(map(str, letters.values()))}",
            config_keys.WRONG,
        )
    return "".join(names[item] for item in listed)


def shortest(letters: str) -> str:
    """The shortest beginning of `letters` that gives all of it, begun again and again."""
    for size in range(1, len(letters)):
        if all(letter == letters[n % size] for n, letter in enumerate(letters)):
            return letters[:size]
    return letters


# ------------------------------------------------------------------------------- the whole
def extra_of(*parts: Part) -> dict[str, Scalar]:
    """`Family.extra` of the parts."""
    return {name: value for part in parts for name, value in part.fields.items()}


def spelled(
    architecture: str,
    model_type: str,
    *parts: Part,
    absent: Mapping[str, Any],
    activations: Mapping[str, str],
    activation_key: str = "hidden_act",
    norm_key: str = "rms_norm_eps",
    fixed: Mapping[str, Any] | None = None,
    **more: Any,
) -> HuggingFace:
    """A family's config.

    Args:
      absent: what it means that a key is not there: of `max_position_embeddings`, the norm's
        and `tie_word_embeddings`; of `head_dim` where it is not hidden_size by heads, and then
        it is always written; of any key that a part reads.
      activations: the config's names, ours as values.
      fixed: as `config_keys.fixed`; they are written too.
      more: fields of `HuggingFace`.
    """
    fixed = dict(fixed or {})

    def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        raw = {**absent, **raw}
        config_keys.fixed(raw, where, architecture, fixed)
        default = next(iter(activations))
        fields = config_keys.read_sizes(raw, where, absent["max_position_embeddings"]) | {
            "rms_norm_eps": raw[norm_key],
            "activation": config_keys.activation(raw, where, activations, default, activation_key),
            "tie_embeddings": config_keys.boolean(raw, "tie_word_embeddings", where),
        }
        extra: dict[str, Scalar] = {}
        for part in parts:
            for name, value in part.read(raw, where).items():
                (extra if name in part.fields else fields)[name] = value
        return fields | ({"extra": extra} if extra else {})

    def write(spec: ModelSpec, old: bool) -> dict[str, Any]:
        names = {ours: theirs for theirs, ours in reversed(list(activations.items()))}
        config = config_keys.write_sizes(spec) | fixed
        if "head_dim" in absent:
            config["head_dim"] = spec.head_dim
        config |= {
            "initializer_range": 0.02,
            norm_key: spec.rms_norm_eps,
            activation_key: names.get(spec.activation, spec.activation),
            "tie_word_embeddings": spec.tie_embeddings,
        }
        for part in parts:
            config |= part.write(spec, old)
        return config

    return HuggingFace(architecture, model_type, read, write, **more)
