"""What is claimed of a conversion, derived from its source and its output.

The same code writes the claims into a receipt and derives them again when the receipt is
checked, so a claim that cannot be derived cannot be made. Knows no format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bitnet_jax.core.errors import BadData, CannotCreate, InternalError, few
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.ops.native import library
from bitnet_jax.ops.select import select
from bitnet_jax.quant.ulps import ulps
from bitnet_jax.targets import detect
from bitnet_jax.workflows.contract import check_contract, require_contract
from bitnet_jax.workflows.probe import PRODUCT_LIMIT, Probe, probe
from bitnet_jax.workflows.survey import Pass

# Rows of two float tensors that are compared at once.
_ROWS = 1024


def claims(before: Pass, after: Pass) -> dict[str, Any]:
    """What can be said without running either model; both passes are finished."""
    return {
        "digest_before": before.digest().to_json(),
        "digest_after": after.digest().to_json(),
        "codes_changed": list(_codes_changed(before, after)),
        "scales_changed": _scales_changed(before, after),
        "floats_changed": list(_floats_changed(before, after)),
        "contract": check_contract(before.side, after.side),
    }


def _codes_changed(before: Pass, after: Pass) -> Iterator[dict[str, Any]]:
    """The tensors whose codes are others, of any kind; a digest says that of trits alone."""
    for name in before.checkpoint.entries:
        old, new = before.seen.get(name), after.seen.get(name)
        if old is None or new is None or (old.scales is None and new.scales is None):
            continue
        kinds = [seen.dtype if seen.scales is not None else "float" for seen in (old, new)]
        if (kinds[0], old.values) != (kinds[1], new.values):
            yield {"name": name, "before": kinds[0], "after": kinds[1]}


def probe_claims(before: Pass, after: Pass, progress: Any) -> tuple[dict[str, Any], Probe]:
    """What running both says; see `workflows.probe`."""
    found = probe(
        before.checkpoint, after.checkpoint, (before.forms, after.forms), progress=progress
    )
    record = found.to_json()
    return {"max_logit_difference": record["max_logit_difference"], "probe": record}, found


def no_probe() -> dict[str, Any]:
    """The claims of a conversion that was not probed."""
    return {"max_logit_difference": None, "probe": None}


def made_by() -> dict[str, Any]:
    """Versions, and the kernel of ternary products: what a probe's last bits may depend on."""
    versions, platform = detect.versions(), detect.detect().platform
    choice = select("ternary_matmul", platform).implementation
    isa = library.status().isa if choice == "native" else None
    return {
        "bitnet_jax": versions["bitnet-jax"],
        "jax": versions["jax"],
        "kernel": f"{choice} ({isa})" if isa else choice,
    }


def require_claims(record: Mapping[str, Any], source: str, output: str, *, strict: bool) -> None:
    """Raises unless the output is the source's model.

    Raises:
      InternalError: other trits (``convert.trits_changed``).
      BadData: the contract does not hold (``contract.…``).
      CannotCreate: something lost precision, and `strict` (``convert.strict``).
    """
    before, after = record["digest_before"]["trits"], record["digest_after"]["trits"]
    names = [row["name"] for row in record["codes_changed"]]
    if before != after or names:
        where = few(names) if names else f"{after} != {before}"
        raise InternalError(
            "convert.trits_changed",
            f"`{output}` would hold other codes than `{source}`: {where}; it was not written",
            "this is a bug: please report it",
        )
    require_contract(record["contract"], output)
    others = changed(record)
    if strict and others:
        raise CannotCreate(
            "convert.strict",
            f"`{output}` would hold {len(others)} tensors whose values differ from the source's "
            f"in the last bits: {few(others)}; it was not written",
            "choose an encoding that holds them exactly, or leave out --strict",
        )


def changed(record: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that the output holds in other values, trits apart."""
    return [row["name"] for row in (*record["scales_changed"], *record["floats_changed"])]


def require_probe(record: Mapping[str, Any], found: Probe, output: str) -> None:
    """Raises `BadData` (``contract.logits``) unless the two compute the same, by the parity rules.

    Where values were changed, and the record says which, only products with others must be
    equal; how far the logits are apart is stated.
    """
    others = set(changed(record))
    broken = next((p for p in found.differing if not others.intersection(p.weights)), None)
    if broken is None and (others or found.parity.holds):
        return
    where = (
        f"the product with {few(broken.weights)} differs by {broken.difference:.3g} of its "
        f"largest value from the same input ({PRODUCT_LIMIT:g} is allowed)"
        if broken is not None
        else f"the logits differ ({found.parity.words()})"
    )
    raise BadData(
        "contract.logits",
        f"`{output}` does not compute what the source computes: {where}; it was not written",
        "this is a bug of the reader or the writer of that format: please report it",
    )


def _scales_changed(before: Pass, after: Pass) -> list[dict[str, Any]]:
    names = [
        name
        for name, seen in before.seen.items()
        if name in after.seen and seen.scales != after.seen[name].scales
    ]
    order = [name for name in before.checkpoint.entries if name in names]
    return scales_changed(before.checkpoint, after.checkpoint, order)


def scales_changed(
    before: Checkpoint, after: Checkpoint, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Those of these tensors whose scales differ, with the largest difference in float32 ULPs."""
    out: list[dict[str, Any]] = []
    for name in names:
        if not (before.entries[name].ternary and after.entries[name].ternary):
            continue
        old = np.asarray(before.read(name).scale, np.float32).reshape(-1)  # type: ignore[union-attr]
        new = np.asarray(after.read(name).scale, np.float32).reshape(-1)  # type: ignore[union-attr]
        if old.shape != new.shape:
            out.append({"name": name, "ulps": None, "before": old.size, "after": new.size})
        elif not np.array_equal(old, new):
            steps = ulps(old, new)
            worst = int(steps.argmax())
            out.append(
                {
                    "name": name,
                    "ulps": int(steps[worst]),
                    "before": float(old[worst]),
                    "after": float(new[worst]),
                }
            )
    return out


def _floats_changed(before: Pass, after: Pass) -> Iterator[dict[str, Any]]:
    """The float tensors whose values differ, by how much of their largest value."""
    for name in before.checkpoint.entries:
        old, new = before.seen.get(name), after.seen.get(name)
        if old is None or new is None or old.scales is not None or new.scales is not None:
            continue
        if (old.dtype, old.values) == (new.dtype, new.values):
            continue
        difference = _float_difference(before.checkpoint, after.checkpoint, name)
        if difference:  # the same values may stand in another dtype
            yield {"name": name, "before": old.dtype, "after": new.dtype, "difference": difference}


def _float_difference(before: Checkpoint, after: Checkpoint, name: str) -> float:
    worst = largest = 0.0
    if len(before.entries[name].shape) < 2:
        pairs = [(before.read(name), after.read(name))]
    else:
        pairs = zip(before.parts(name, _ROWS), after.parts(name, _ROWS), strict=True)
    for old, new in pairs:
        left, right = np.asarray(old, np.float64), np.asarray(new, np.float64)
        if np.array_equal(left, right, equal_nan=True):
            largest = max(largest, float(np.abs(left).max(initial=0)))
            continue
        with np.errstate(invalid="ignore"):
            worst = max(worst, float(np.nan_to_num(np.abs(left - right), nan=np.inf).max()))
        largest = max(largest, float(np.abs(left).max()))
    return worst / largest if largest else worst
