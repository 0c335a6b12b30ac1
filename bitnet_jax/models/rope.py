"""Rotary positions in a config and in a spec: the base, and how its frequencies are scaled.

`config.json` spells them `rope_theta` and `rope_scaling` (transformers 4) or
`rope_parameters` (5); a spec has the base as `rope_theta` and the rest under `extra`, in a family
that takes `FIELDS` into its own. What they mean is the op's (`ops/rotary`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec, Scalar
from bitnet_jax.models.config_keys import number
from bitnet_jax.models.spelling import Part

# Fields of `extra`, with what stands there where nothing is scaled.
FIELDS: dict[str, Scalar] = {
    "rope_type": "default",
    "rope_factor": 1.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 1.0,
    "rope_original_positions": 0,
}
# Their key -> our field, of each kind.
KINDS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_positions",
    },
}


def parameters(raw: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The object that says it, in either spelling; empty if there is none."""
    found = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise BadData("config.value", f"{where}: rope parameters {shown(found)} are no JSON object")
    return found


def kind_of(found: Mapping[str, Any], where: str, known: Mapping[str, Any], hint: str) -> str:
    """The kind of scaling, one of `known`."""
    kind = found.get("rope_type", found.get("type", "default"))
    if not isinstance(kind, str) or kind not in known:
        raise BadData(
            "config.unsupported", f"{where}: rope_type {shown(kind)} is not supported", hint
        )
    return kind


def read_rope(found: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    """`FIELDS` as rope parameters have them.

    Raises:
      BadData: another kind of scaling (``config.unsupported``), a value that is none
        (``config.value``).
    """
    kind = kind_of(found, where, KINDS, f"known: {', '.join(KINDS)}")
    fields: dict[str, Scalar] = dict(FIELDS) | {"rope_type": kind}
    for key, name in KINDS[kind].items():
        value = number(found, key, f"{where}: rope of type {kind}")
        fields[name] = int(value) if isinstance(FIELDS[name], int) else value
    return fields


def write_scaling(spec: ModelSpec) -> dict[str, Any]:
    """Inverse of `read_rope`."""
    kind = str(spec.extra.get("rope_type", "default"))
    return {"rope_type": kind} | {key: spec.extra[name] for key, name in KINDS[kind].items()}


def write_rope(spec: ModelSpec, old: bool) -> dict[str, Any]:
    """The keys of a config; `old` asks for the spelling of transformers 4."""
    scaled = write_scaling(spec)
    if not old:
        return {"rope_parameters": {"rope_theta": spec.rope_theta} | scaled}
    return {"rope_theta": spec.rope_theta} | ({"rope_scaling": scaled} if len(scaled) > 1 else {})


def rope(default_theta: float) -> Part:
    """The part of a config whose whole heads are turned, in all layers by one base."""

    def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        found = parameters(raw, where)
        share = found.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
        if share not in (None, 1):
            raise BadData(
                "config.unsupported",
                f"{where}: partial_rotary_factor {shown(share)}; here whole heads are turned",
                None,
            )
        return {
            "rope_theta": found.get("rope_theta", raw.get("rope_theta", default_theta)),
            **read_rope(found, where),
        }

    return Part(FIELDS, read, write_rope)


def plain_rope(default_theta: float) -> Part:
    """The part of a family whose models never scale their frequencies."""

    def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        found = parameters(raw, where)
        kind_of(found, where, {"default": ()}, "no model of this architecture scales its positions")
        return {"rope_theta": found.get("rope_theta", raw.get("rope_theta", default_theta))}

    return Part({}, read, write_rope)


def partial_rope(default_theta: float, default_share: float) -> Part:
    """The same where only the first elements of each head are turned.

    It adds the field ``rotary_share``: how much of a head that is.
    """

    def read(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
        found = parameters(raw, where)
        beside = number(raw, "partial_rotary_factor", where, default_share)
        return {
            "rope_theta": found.get("rope_theta", raw.get("rope_theta", default_theta)),
            **read_rope(found, where),
            "rotary_share": number(found, "partial_rotary_factor", where, beside),
        }

    def write(spec: ModelSpec, old: bool) -> dict[str, Any]:
        config = write_rope(spec, old)
        home = config if old else config["rope_parameters"]
        home["partial_rotary_factor"] = spec.extra["rotary_share"]
        return config

    return Part(FIELDS | {"rotary_share": default_share}, read, write)


def rotated_of(spec: ModelSpec) -> int:
    """How many elements of a head are turned, by ``rotary_share``."""
    return int(spec.head_dim * float(spec.extra["rotary_share"]))


def scaling_of(spec: ModelSpec) -> tuple[Any, ...]:
    """What the op `rotary` takes: empty, or the kind and its numbers."""
    kind = str(spec.extra["rope_type"])
    numbers = [float(spec.extra[name]) for name in KINDS[kind].values()]
    return (kind, *numbers) if numbers else ()


def share_fault(spec: ModelSpec) -> str | None:
    """As `rope_fault`, for a family with ``rotary_share``."""
    share = float(spec.extra["rotary_share"])
    if not 0 < share <= 1:
        return f"rotary_share is {shown(share)}; it must be a share of a head, above 0"
    return rope_fault(spec, rotated_of(spec))


def rope_fault(spec: ModelSpec, rotated: int) -> str | None:
    """What is wrong with the rotary fields of a spec that turns `rotated` of each head, or None."""
    if rotated % 2 or rotated <= 0:
        whole = rotated == spec.head_dim
        what = "is odd" if whole else f"is turned in {rotated} of its elements"
        return f"head_dim {spec.head_dim} {what}; rotary embedding needs pairs"
    kind = spec.extra["rope_type"]
    if kind not in KINDS:
        return f"rope_type is {shown(kind)}; known: {', '.join(KINDS)}"
    for name, default in FIELDS.items():
        value = spec.extra[name]
        if name in KINDS[str(kind)].values():
            if not 0 < float(value) < float("inf"):
                return f"{name} is {shown(value)}; it must be a positive number"
        elif name != "rope_type" and value != default:
            return f"{name} is {shown(value)}, which rope_type {kind} does not have"
    if (
        kind == "llama3"
        and spec.extra["rope_high_freq_factor"] == spec.extra["rope_low_freq_factor"]
    ):
        return "rope_low_freq_factor and rope_high_freq_factor must differ"
    return None
