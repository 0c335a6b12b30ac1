"""The weights of two models, tensor by tensor: trits that agree, scales in ULPs, floats.

A float matrix beside a ternary one is ternarized for it. Runs neither model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bitnet_jax.analysis.inspect import stored_bits
from bitnet_jax.bench.progress import task
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.quant.digest import DigestBuilder
from bitnet_jax.quant.tensor import TERNARY, QuantTensor
from bitnet_jax.quant.ternary import ternarize
from bitnet_jax.quant.ulps import ulps

Pair = tuple[Checkpoint, Checkpoint]
# Floats that are widened at once.
_AT_ONCE = 1 << 22


def not_compared(missing: list[dict[str, str]], what: str, why: str) -> None:
    """Adds to `missing` what could not be compared."""
    missing.append({"what": what, "why": why})


def compare_weights(
    pair: Pair, missing: list[dict[str, str]], progress: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each tensor that both have, and what each model is; reads every tensor once."""
    rows: list[dict[str, Any]] = []
    builders = (DigestBuilder(), DigestBuilder())
    held = [{"packed": 0, "codes": 0, "floats": 0} for _ in pair]
    names = sorted({*pair[0].entries, *pair[1].entries}, key=str.encode)
    apart: dict[str, list[str]] = {}
    with task(progress, "comparing weights", len(names), "tensors") as told:
        for name in names:
            values = [one.read(name) if name in one.entries else None for one in pair]
            for value, builder, sizes in zip(values, builders, held, strict=True):
                if isinstance(value, QuantTensor):
                    builder.add(name, value)
                    sizes["packed"] += value.nbytes
                    sizes["codes"] += math.prod(value.shape)
                elif value is not None:
                    sizes["floats"] += 4 * value.size
            why = _unlike(name, *values)
            if why is None:
                rows.append(_tensor(name, *values))
            else:
                apart.setdefault(why, []).append(name)
            told()
    for why, those in apart.items():
        more = f" and {len(those) - 1} more tensors" if those[1:] else ""
        not_compared(missing, f"`{those[0]}`{more}", why)
    return rows, [
        _about(one, builder, sizes)
        for one, builder, sizes in zip(pair, builders, held, strict=True)
    ]


def _about(one: Checkpoint, builder: DigestBuilder, held: Mapping[str, int]) -> dict[str, Any]:
    shapes = [(math.prod(entry.shape), entry.ternary) for entry in one.entries.values()]
    return {
        "model": str(one.source.path),
        "format": one.source.format,
        "encoding": one.source.encoding,
        "family": one.spec.family,
        "vocab_size": one.spec.vocab_size,
        "parameters": sum(size for size, _ in shapes),
        "ternary_parameters": sum(size for size, ternary in shapes if ternary),
        "digest": builder.result().to_json(),
        "bits_per_weight": stored_bits(one),
        "packed_bits_per_weight": 8 * held["packed"] / held["codes"] if held["codes"] else None,
        "memory_bytes": held["packed"] + held["floats"],
    }


def _unlike(name: str, one: Any, two: Any) -> str | None:
    if one is None or two is None:
        return f"only in the {'first' if two is None else 'second'} model"
    if tuple(one.shape) != tuple(two.shape):
        return f"its shape is {list(one.shape)} in the first, {list(two.shape)} in the second"
    return None


def _tensor(name: str, one: Any, two: Any) -> dict[str, Any]:
    """How much of a tensor agrees; a float one beside a ternary one is ternarized for it.

    Where one is of another kind (int4, …), what both stand for is compared.
    """
    both = [isinstance(value, QuantTensor) for value in (one, two)]
    row: dict[str, Any] = {"name": name, "shape": list(one.shape)}
    kinds = {value.kind for value in (one, two) if isinstance(value, QuantTensor)}
    if kinds != {TERNARY}:
        return row | _floats(_stands_for(one), _stands_for(two))
    like = one if both[0] else two
    trits, scales = zip(*(_trits(value, like) for value in (one, two)), strict=True)
    same = int(np.count_nonzero(trits[0] == trits[1]))
    size = int(trits[0].size)
    row |= {"trits": size, "agreement": same / size, "changed": size - same}
    row["ternarized"] = [] if all(both) else ["first" if not both[0] else "second"]
    if scales[0].shape == scales[1].shape:
        row["scale_ulps"] = int(ulps(*scales).max())
        ratio = scales[1].astype(np.float64) / scales[0]
        row["scale_ratio"] = float(np.median(ratio))
    if not all(both):
        floats = _stands_for(one), _stands_for(two)
        row["nmse"] = _floats(*(floats if not both[0] else floats[::-1]))["nmse"]
    return row


def _stands_for(value: Any) -> np.ndarray:
    return np.asarray(value.dequantize() if isinstance(value, QuantTensor) else value)


def _trits(value: Any, like: QuantTensor) -> tuple[np.ndarray, np.ndarray]:
    """Trits [*stack, out, in] and scales, of a float matrix as absmean makes them."""
    if isinstance(value, QuantTensor):
        return np.asarray(value.trits()), np.asarray(value.scale, np.float32)
    axes = (*like.stack_axes, *like.out_axes, *like.in_axes)
    matrix = np.transpose(np.asarray(value, np.float32), axes).reshape(like.canonical_shape)
    made = ternarize(matrix, like.scale_kind, like.group_size, like.scale_dtype)
    return np.asarray(made[0]), np.asarray(made[1], np.float32)


def _floats(one: np.ndarray, two: np.ndarray) -> dict[str, Any]:
    """In float64, some rows at a time; ``nmse`` is squared error over the first's squared size.

    None where the first is zero or no number.
    """
    one, two = np.atleast_1d(one), np.atleast_1d(two)
    equal, difference, size, error = True, 0.0, 0.0, 0.0
    step = max(1, _AT_ONCE // max(math.prod(one.shape[1:]), 1))
    for start in range(0, len(one), step):
        first, second = (v[start : start + step].astype(np.float64) for v in (one, two))
        equal = equal and np.array_equal(first, second, equal_nan=True)
        with np.errstate(invalid="ignore"):
            apart = np.abs(first - second)
        difference = float(np.maximum(difference, apart.max(initial=0.0)))
        size, error = size + float(np.square(first).sum()), error + float(np.square(apart).sum())
    nmse = error / size if size > 0 and math.isfinite(error) else None
    return {"trits": 0, "equal": bool(equal), "difference": difference, "nmse": nmse}


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All rows in one: of the trits, and of the float tensors."""
    ternary = [row for row in rows if row["trits"]]
    floats = [row for row in rows if not row["trits"]]
    trits = sum(row["trits"] for row in ternary)
    changed = sum(row["changed"] for row in ternary)
    return {
        "trits": trits,
        "trits_changed": changed,
        "trit_agreement": 1 - changed / trits if trits else None,
        "matrices": len(ternary),
        "matrices_changed": sum(row["changed"] > 0 for row in ternary),
        "scale_ulps": max((row["scale_ulps"] for row in ternary if "scale_ulps" in row),
                          default=None),
        "floats": len(floats),
        "floats_changed": sum(not row["equal"] for row in floats),
    }  # fmt: skip
