"""A spec as the keys of a GGUF file, and back.

The keys that llama.cpp reads are the truth; ``bitnet_jax.spec`` beside them has what they
cannot say (a float64, every end id, a family's own fields), and must agree with them. Knows
no tensor and no tokenizer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitnet_jax.containers.blob import load_json
from bitnet_jax.containers.gguf_write import Value
from bitnet_jax.core.errors import BadData, CannotCreate, shown
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.gguf_name import NAME, fitting
from bitnet_jax.formats.metadata import MOST_KEYS, PREFIX, metadata_fault
from bitnet_jax.formats.native import PRODUCER
from bitnet_jax.ir.spec import ModelSpec, Scalar
from bitnet_jax.models.families import ELSEWHERE, FAMILIES, by_gguf, family_of
from bitnet_jax.models.family import Family
from bitnet_jax.models.gguf import Found, Gguf, MetadataKey
from bitnet_jax.models.parameter import field_of

OURS = "bitnet_jax."  # what begins so is this package's own
SPEC = OURS + "spec"
DIGEST = OURS + "digest."
ARCHITECTURE = "general.architecture"
_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, ""))
# Keys that say what the file is, and are the writer's alone.
_FIXED = frozenset(
    f"general.{name}"
    for name in ("architecture", "type", "alignment", "file_type", "quantization_version")
)
_RIGHT = "the file was edited: remove the key, or convert again from the source"
_KINDS: dict[str, tuple[type, ...]] = {
    "u32": (int,),
    "f32": (float, int),
    "string": (str,),
    "bool": (bool,),
}


def row_of(spec: ModelSpec) -> Gguf:
    """The family's row.

    Raises:
      CannotCreate: it has none (``gguf.family``).
    """
    row = family_of(spec.family).gguf
    if row is None:
        raise CannotCreate(
            "gguf.family",
            f"family `{spec.family}` is not one that is written in GGUF files",
            "keep it as --format bitnet",
        )
    return row


def short(value: float) -> float:
    """A float32 as the decimal that people wrote: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))


# ------------------------------------------------------------------------------ writing
def spec_keys(spec: ModelSpec, architecture: str) -> dict[str, Value]:
    """Every key that says what `spec` is, for a file of `architecture`."""
    found = {f"{architecture}.{name}": value for name, value in _own_keys(spec).items()}
    found[SPEC] = ("string", json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":")))
    return found


def _own_keys(spec: ModelSpec) -> dict[str, Value]:
    """Those of the architecture, less its name."""
    row = row_of(spec)
    found: dict[str, Value] = {}
    for key in row.keys:
        value = field_of(spec, key.field)
        if value is not None and not _needless(key, value, spec):
            found[key.name] = (key.kind, value)
    if "attention.key_length" in found:
        found["attention.value_length"] = ("u32", spec.head_dim)
    return found | row.more(spec)


def _needless(key: MetadataKey, value: Any, spec: ModelSpec) -> bool:
    """A width of a head that is what its absence means: old engines know no such key."""
    if key.field != "head_dim" or key.default is None:
        return False
    fields = {"hidden_size": spec.hidden_size, "num_heads": spec.num_heads}
    return bool(key.default(fields) == value)


def general_keys(checkpoint: Checkpoint, architecture: str, file_type: int) -> dict[str, Value]:
    """What the file is, and what the model says of itself; nothing of where its source lay."""
    said = {key: _kind(value) for key, value in checkpoint.metadata.items() if key not in _FIXED}
    return {
        ARCHITECTURE: ("string", architecture),
        "general.type": ("string", "model"),
        **{key: ("string", value) for key, value in _implied(checkpoint).items()},
        **said,
        "general.quantization_version": ("u32", 2),
        "general.file_type": ("u32", file_type),
    }


def _implied(checkpoint: Checkpoint) -> dict[str, str]:
    """What a model that says nothing of itself is called, as llama.cpp's converter would."""
    count = sum(math.prod(entry.shape) for entry in checkpoint.entries.values())
    size = next(f"{count / unit:.3g}{word}" for unit, word in _UNITS if count >= unit)
    return {
        NAME: fitting(f"{checkpoint.spec.family} {size}", checkpoint.tokenizer),
        "general.size_label": size,
        "general.quantized_by": PRODUCER,
    }


def _kind(value: Scalar) -> Value:
    if isinstance(value, str):
        return "string", value
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return ("u32" if 0 <= value < 1 << 32 else "i64"), value
    return "f64", value


# ------------------------------------------------------------------------------ reading
def read_metadata(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> dict[str, Scalar]:
    """What the model says of itself: plain values, less those that we imply."""
    implied = _implied(checkpoint) if SPEC in metadata else {}
    found = {
        key: value
        for key, value in metadata.items()
        if key.startswith(PREFIX) and key not in _FIXED and implied.get(key) != value
    }
    plain = {key: value for key, value in found.items() if metadata_fault(key, value) is None}
    return dict(sorted(plain.items())[:MOST_KEYS])


def read_spec(file: Found, rows: int, tied: bool) -> ModelSpec:
    """The spec that the keys say.

    Args:
      rows: of the embedding, where no key says the vocabulary's size.
      tied: the file has no head of its own.

    Raises:
      BadData: the architecture is not known (``model.unknown_architecture``), a key is missing
        or absurd (``gguf.key_missing``, ``config.value``), or `bitnet_jax.spec` disagrees
        (``gguf.spec``).
    """
    metadata, where = file.metadata, file.where
    _check_whole(metadata, where)
    ours = _stated(metadata, where)
    family = _family(file.architecture, ours, where)
    row = family.gguf
    assert row is not None
    fields: dict[str, Any] = {"_rows": rows, "_stated": _extra_of(ours)}
    extra: dict[str, Any] = {}
    for key in row.keys:
        value = _value(key, file, fields)
        home = extra if key.field.startswith("extra.") else fields
        home[key.field.removeprefix("extra.")] = value
    _check_sizes(fields, where)
    found = row.fixed(file, fields)
    fields = {name: value for name, value in fields.items() if not name.startswith("_")}
    fields |= {"tie_embeddings": tied, **found, "extra": extra | found.get("extra", {})}
    for name, key_name in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        fields[name] = _token(metadata, f"tokenizer.ggml.{key_name}_token_id", rows, where)
    ends = (
        _token(metadata, f"tokenizer.ggml.{name}_token_id", rows, where)
        for name in ("eos", "eot", "eom")
    )
    fields["eos_token_ids"] = tuple(dict.fromkeys(end for end in ends if end is not None))
    try:
        spec = family.spec(**fields)
    except BadData as error:
        raise BadData("config.value", f"{where}: {error.message}", error.hint) from error
    return spec if ours is None else _agreed(spec, ours, where)


def _extra_of(ours: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    extra = (ours or {}).get("extra")
    return extra if isinstance(extra, dict) else None


def _check_sizes(fields: Mapping[str, Any], where: str) -> None:
    """What the rows compute with must be numbers; what else is wrong the family says."""
    theta, width = fields.get("rope_theta"), fields.get("head_dim")
    if not isinstance(theta, int | float) or not 0 < theta < float("inf"):
        raise BadData("config.value", f"{where}: the rotary base is {shown(theta)}")
    layers = fields.get("num_layers")
    if not isinstance(layers, int) or not 0 < layers <= 4096:
        raise BadData("config.value", f"{where}: the number of layers is {shown(layers)}")
    if not isinstance(width, int) or not 0 < width <= 1 << 16:
        raise BadData("config.value", f"{where}: the width of a head is {shown(width)}")


def _check_whole(metadata: Mapping[str, Any], where: str) -> None:
    parts = metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise BadData(
            "gguf.split",
            f"{where} is one of {parts} parts of a model",
            "join them first: `llama-gguf-split --merge FIRST_PART OUTPUT`",
        )
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise BadData(
            "gguf.not_a_model",
            f"{where} is a GGUF file of type {shown(kind)}, not a model",
            "pass the model itself",
        )


def _stated(metadata: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    text = metadata.get(SPEC)
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadData("gguf.spec", f"{where}: {SPEC} is no text", _RIGHT)
    found = load_json(text.encode(), code="gguf.spec", where=f"{where}: {SPEC}")
    if not isinstance(found, dict):
        raise BadData("gguf.spec", f"{where}: {SPEC} is no JSON object", _RIGHT)
    return found


def _family(architecture: Any, ours: dict[str, Any] | None, where: str) -> Family:
    if ours is not None and isinstance(ours.get("family"), str):
        family = family_of(ours["family"])
        if family.gguf is not None and architecture in family.gguf.architectures:
            return family
        raise BadData(
            "gguf.spec",
            f"{where}: {SPEC} says family `{shown(ours['family'])}`, which no file of architecture "
            f"{shown(architecture)} holds",
            _RIGHT,
        )
    found, problems = by_gguf(architecture) if isinstance(architecture, str) else (None, [])
    if found is None:
        known = sorted(
            {n for f in FAMILIES.values() if f.gguf is not None for n in f.gguf.architectures}
        )
        raise BadData(
            "model.unknown_architecture",
            f"{where}: architecture {shown(architecture)} is not known",
            " ".join([f"known: {', '.join(known)}.", ELSEWHERE, *problems]),
        )
    return found


def _value(key: MetadataKey, file: Found, fields: Mapping[str, Any]) -> Any:
    name, where = f"{file.architecture}.{key.name}", file.where
    if name not in file.metadata:
        if key.default is None:
            raise BadData(
                "gguf.key_missing",
                f"{where} has no key {name}, which says the model's {key.field}",
                "the converter that made it left it out: convert again from the original",
            )
        try:
            return key.default(fields)
        except TypeError:
            return None  # made of what is itself absurd, and is named then
    value = file.metadata[name]
    if not isinstance(value, _KINDS[key.kind]) or (isinstance(value, bool) and key.kind != "bool"):
        raise BadData(
            "config.value",
            f"{where}: {name} is {shown(value)}; it must be of kind {key.kind}",
            "is this a model of that architecture, with one value for all layers?",
        )
    if isinstance(value, int | float) and key.kind == "f32" and np.isfinite(np.float32(value)):
        return short(value)
    return value


def _token(metadata: Mapping[str, Any], key: str, rows: int, where: str) -> int | None:
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < rows:
        if value == 0xFFFFFFFF:  # llama.cpp's "there is none"
            return None
        raise BadData(
            "config.value",
            f"{where}: {key} is {shown(value)}, outside the vocabulary of {rows}",
            "is this the right tokenizer for these weights?",
        )
    return value


def _agreed(spec: ModelSpec, ours: dict[str, Any], where: str) -> ModelSpec:
    """Our own spec, where it says nothing else than the keys do."""
    stated = family_of(spec.family).accept(ModelSpec.from_json(ours))
    theirs, mine = spec.to_json(), stated.to_json()
    odd = [
        name for name in {**mine, **theirs} if not _alike(name, mine.get(name), theirs.get(name))
    ]
    reason = row_of(stated).refuses(stated)
    if reason is not None:
        raise BadData(
            "gguf.spec",
            f"{where}: {SPEC} says a model that no file of this architecture holds: {reason}",
            _RIGHT,
        )
    if not odd:
        # What a family has of its own is no field of the keys one by one.
        mine, theirs = ({n: v for n, (_, v) in _own_keys(s).items()} for s in (stated, spec))
        odd = [n for n in {**mine, **theirs} if not _alike(n, mine.get(n), theirs.get(n))]
    if odd:
        raise BadData(
            "gguf.spec",
            f"{where}: {SPEC} and the keys of the architecture differ in "
            + ", ".join(f"{n} ({shown(mine.get(n))}, {shown(theirs.get(n))})" for n in odd[:3]),
            _RIGHT,
        )
    return stated


def _alike(name: str, mine: Any, theirs: Any) -> bool:
    if name == "eos_token_ids":  # three of them have keys, others may be more
        return set(theirs) <= set(mine) and bool(mine) == bool(theirs)
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return np.float32(mine) == np.float32(theirs)
    if name == "extra":
        return True  # what no key says
    return bool(mine == theirs)
