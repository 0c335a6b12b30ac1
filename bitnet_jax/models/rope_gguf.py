"""Scaled rotary positions in GGUF files: keys for `linear`, a tensor for Llama 3.1's.

llama.cpp has no key for the latter: its converter computes the factor of each frequency and
stores them as ``rope_freqs.weight``, and the numbers they came from are lost. They are found again
among the published ones, or in a file that says them (``bitnet_jax.spec``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, shown
from bitnet_jax.ir.spec import ModelSpec, Scalar
from bitnet_jax.models.gguf import Found
from bitnet_jax.models.rope import FIELDS, KINDS, rotated_of

FREQUENCIES = "rope_freqs.weight"
# Llama 3.1 and 3.2: factor, low, high, original positions.
_PUBLISHED = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))
_HINT = "known: none, linear, and Llama 3.1's factors as the published models have them"


def no_scaling(found: Found) -> None:
    """Raises unless the positions of a file are plain.

    Raises:
      BadData: ``config.unsupported``.
    """
    kind, factor = found.key("rope.scaling.type", "none"), found.key("rope.scaling.factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return
    raise BadData(
        "config.unsupported",
        f"{found.where}: rope.scaling.type {shown(kind)} with factor {shown(factor)} is not "
        "supported",
        "this architecture has plain positions",
    )


def no_llama3(spec: ModelSpec) -> str | None:
    """Why an architecture that takes no factors of frequencies cannot hold `spec`."""
    if spec.extra["rope_type"] == "llama3":
        return "its positions are scaled as Llama 3.1's are, which this architecture does not do"
    return None


def write_keys(spec: ModelSpec) -> dict[str, tuple[str, Any]]:
    """The keys of a spec that has `rope.FIELDS`."""
    keys: dict[str, tuple[str, Any]] = {"rope.dimension_count": ("u32", spec.head_dim)}
    if spec.extra["rope_type"] == "linear":
        keys["rope.scaling.type"] = ("string", "linear")
        keys["rope.scaling.factor"] = ("f32", spec.extra["rope_factor"])
    return keys


def write_share(spec: ModelSpec) -> dict[str, tuple[str, Any]]:
    """The same of a spec that has ``rotary_share`` too: it stands as a number of elements."""
    return write_keys(spec) | {"rope.dimension_count": ("u32", rotated_of(spec))}


def read_share(found: Found, head_dim: int) -> float:
    """``rotary_share`` of a file.

    Raises:
      BadData: what is turned is no part of a head (``config.value``).
    """
    rotated = found.key("rope.dimension_count", head_dim)
    if not isinstance(rotated, int) or not 0 < rotated <= head_dim:
        raise BadData(
            "config.value",
            f"{found.where}: {found.architecture}.rope.dimension_count is {shown(rotated)}; it "
            f"must be a number of elements of a head of {head_dim}",
            "the file was edited: convert again from the source",
        )
    share = rotated / head_dim
    # 30 of 44, rounded down
    return share if int(head_dim * share) == rotated else math.nextafter(share, 1)


def whole_heads(found: Found, head_dim: int) -> None:
    """Raises unless whole heads are turned.

    Raises:
      BadData: as `read_share`, or ``config.unsupported``.
    """
    if read_share(found, head_dim) != 1:
        raise BadData(
            "config.unsupported",
            f"{found.where}: {found.architecture}.rope.dimension_count is "
            f"{shown(found.key('rope.dimension_count'))} of heads of {head_dim}; in models of this "
            "architecture whole heads are turned",
            "convert again from the original",
        )


def frequencies(
    theta: float, head_dim: int, factor: float, low: float, high: float, original: int
) -> np.ndarray:
    """By how much each frequency is divided, float32 [head_dim/2].

    As llama.cpp's converter computes them (`LlamaModel.generate_extra_tensors`).
    """
    wave = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (original / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(
        wave < original / high, 1.0, np.where(wave > original / low, factor, between)
    ).astype(np.float32)


def write_tensors(spec: ModelSpec) -> dict[str, np.ndarray]:
    """The further tensors of a spec that has `rope.FIELDS`."""
    if spec.extra["rope_type"] != "llama3":
        return {}
    numbers = [spec.extra[name] for name in KINDS["llama3"].values()]
    return {FREQUENCIES: frequencies(spec.rope_theta, spec.head_dim, *numbers)}  # type: ignore[arg-type]


def read_fields(found: Found, theta: float, head_dim: int, stated: Any) -> dict[str, Scalar]:
    """`rope.FIELDS` of a file.

    Args:
      stated: what a file of this package says they are, to be compared; or None.

    Raises:
      BadData: a kind or factors that are not known (``config.unsupported``).
    """
    kind = found.key("rope.scaling.type", "none")
    if kind == "linear" and found.key("rope.scaling.factor", 1.0) != 1.0:
        factor = found.key("rope.scaling.factor")
        if not isinstance(factor, float):
            raise BadData("config.value", f"{found.where}: rope.scaling.factor is {shown(factor)}")
        return dict(FIELDS) | {"rope_type": "linear", "rope_factor": factor}
    if kind not in ("none", "linear"):
        raise BadData(
            "config.unsupported",
            f"{found.where}: rope.scaling.type {shown(kind)} is not supported",
            _HINT,
        )
    if FREQUENCIES not in found.tensors:
        return dict(FIELDS)
    stored = found.read(FREQUENCIES)
    if (stored == 1).all():
        return dict(FIELDS)
    names = KINDS["llama3"]
    said = [stated.get(name) for name in names.values()] if stated else []
    plain = all(isinstance(number, int | float) and 0 < number < 1e9 for number in said)
    for numbers in (*([said] if said and plain and said[1] != said[2] else []), *_PUBLISHED):
        wanted = frequencies(theta, head_dim, *numbers)
        if stored.shape == wanted.shape and np.allclose(stored, wanted, rtol=1e-5, atol=0):
            return (
                dict(FIELDS)
                | {"rope_type": "llama3"}
                | dict(zip(names.values(), numbers, strict=True))
            )
    raise BadData(
        "config.unsupported",
        f"{found.where}: the factors of its rotary frequencies ({FREQUENCIES}) are of no kind "
        "known",
        _HINT,
    )
