"""Keys that the configs of `transformers` decoders share: read into fields, and written.

Each family's own file says which of them it has and what an absent one means. Knows no
family, and nothing of rotary positions (`rope.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec

WRONG = "is this the right config for these weights?"

# config.json key -> spec field, for the numbers that are spelled one way only.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}


def read_sizes(raw: Mapping[str, Any], where: str, positions: int) -> dict[str, Any]:
    """The sizes of a decoder; `positions` is what an absent max_position_embeddings means."""
    return {
        **{field: required(raw, key, where) for key, field in _SIZES.items()},
        **_heads(raw, where),
        "max_positions": raw.get("max_position_embeddings", positions),
    }


def write_sizes(spec: ModelSpec) -> dict[str, Any]:
    """Inverse of `read_sizes`; head_dim only where the other sizes do not give it."""
    config: dict[str, Any] = {key: getattr(spec, field) for key, field in _SIZES.items()}
    config["num_key_value_heads"] = spec.num_kv_heads
    config["max_position_embeddings"] = spec.max_positions
    if spec.head_dim * spec.num_heads != spec.hidden_size:
        config["head_dim"] = spec.head_dim
    return config


def required(raw: Mapping[str, Any], key: str, where: str) -> int:
    """A positive whole number that must be there."""
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        found = "is missing" if key not in raw else f"is {shown(value)}"
        raise BadData(
            "config.value", f"{where}: {key} {found}; it must be a positive whole number", WRONG
        )
    return value


def boolean(raw: Mapping[str, Any], key: str, where: str, default: bool = False) -> bool:
    """A truth, `default` where it is absent."""
    value = raw.get(key, default)
    if not isinstance(value, bool):
        raise BadData("config.value", f"{where}: {key} is {shown(value)}, neither true nor false")
    return value


def number(raw: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    """A finite number; without a default it must be there."""
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        found = "is missing" if key not in raw else f"is {shown(value)}"
        raise BadData("config.value", f"{where}: {key} {found}; it must be a number", WRONG)
    return float(value)


def fixed(raw: Mapping[str, Any], where: str, architecture: str, values: Mapping[str, Any]) -> None:
    """Raises `BadData` unless each key is absent or has the one value that is computed here."""
    for key, value in values.items():
        found = raw.get(key, value)
        if found != value or isinstance(found, bool) is not isinstance(value, bool):
            raise BadData(
                "config.unsupported",
                f"{where}: {key} is {shown(found)}; `{architecture}` is computed here with "
                f"{value!r} only",
                None,
            )


def activation(
    raw: Mapping[str, Any], where: str, names: Mapping[str, str], default: str, key: str
) -> str:
    """The activation by our name; `names` has theirs.

    A wrong one gives a model that talks nonsense without an error, so none is guessed.
    """
    found = raw.get(key)
    found = default if found is None else found
    if not isinstance(found, str) or found not in names:
        raise BadData(
            "config.unsupported",
            f"{where}: {key} {shown(found)} is not known for this architecture",
            f"known: {', '.join(names)}",
        )
    return names[found]


def _heads(raw: Mapping[str, Any], where: str) -> dict[str, int]:
    hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
    kv_heads = raw.get("num_key_value_heads")
    head_dim = raw.get("head_dim")
    if head_dim is None and hidden % heads:
        raise BadData(
            "config.value",
            f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}",
            WRONG,
        )
    return {
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "head_dim": hidden // heads if head_dim is None else head_dim,
    }
