"""The wiring of a source: does its own program compute what its config says it is?

Some files hold their computation beside their weights (`Checkpoint.own`), and are read by weights
and config all the same. Both are run on the same tokens and compared by the parity rules; a program
whose constants are half floats, by what those are rounded. Knows no format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np

from bitnet_jax.containers.dtypes import numpy_dtype
from bitnet_jax.core.errors import BadData
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.runtime.stepwise import Forms, Stepwise
from bitnet_jax.workflows.parity import MEDIAN_LIMIT, compare_logits
from bitnet_jax.workflows.probe import PROBE_TOKENS

# What a program may ask for beyond the probe's: some take one size of batch and length only.
_MOST_TOKENS = 1 << 16


def wiring_claims(checkpoint: Checkpoint, forms: Forms) -> dict[str, Any]:
    """What running the source's own program says; nothing where it holds none.

    Args:
      forms: `stepwise.form_of` every tensor.

    Returns:
      ``{"wiring": {"holds": …}}`` with the figures of `Parity` and the ``limit`` of the median;
      where the program cannot be computed here, ``holds`` is None and ``unproven`` says why, with
      the operation.
    """
    own = checkpoint.own
    if own is None:
        return {}
    spec = checkpoint.spec
    shape = own.batch or 1, own.length or min(PROBE_TOKENS, spec.max_positions)
    try:
        if shape[0] * shape[1] > _MOST_TOKENS:
            raise BadData("onnx.wiring", f"it takes tokens {list(shape)} only, too many to try")
        tokens = np.random.default_rng(0).integers(0, spec.vocab_size, shape, np.int32)
        found = own.logits(tokens)
    except BadData as error:
        if not error.code.startswith("onnx."):  # a file that is damaged is no matter of wiring
            raise
        return {"wiring": {"holds": None, "unproven": error.message}}
    # Nothing stays narrow: the program's floats are wide.
    expected = Stepwise(checkpoint, forms, frozenset(), tokens).run()
    parity = compare_logits(expected, found)
    limit = max(own.rounding, MEDIAN_LIMIT)
    holds = parity.holds or (
        np.isfinite(parity.max_logit_difference) and parity.median_logit_difference <= own.rounding
    )
    return {"wiring": {**asdict(parity), "limit": limit, "holds": bool(holds)}}


def stored_forms(checkpoint: Checkpoint) -> Forms:
    """`stepwise.form_of` every tensor of a float checkpoint, none of them read."""
    return {
        name: jax.ShapeDtypeStruct(entry.shape, numpy_dtype(entry.dtype))
        for name, entry in checkpoint.entries.items()
    }


def with_wiring(checkpoint: Checkpoint, output: str) -> tuple[Checkpoint, dict[str, Any]]:
    """The claims of a float checkpoint, and it with their warnings; raises as `require_wiring`."""
    source = str(checkpoint.source.path)
    claims = wiring_claims(checkpoint, stored_forms(checkpoint))
    require_wiring(claims, source, output)
    warnings = (*checkpoint.warnings, *wiring_warnings(claims, source))
    return replace(checkpoint, warnings=warnings), claims


def wiring_warnings(claims: Mapping[str, Any], source: str) -> list[str]:
    """A warning where the program could not be run."""
    unproven = claims.get("wiring", {}).get("unproven")
    if unproven is None:
        return []
    return [
        f"`{source}` is taken for what its config says: its own graph was not compared with that: "
        + unproven
    ]


def require_wiring(claims: Mapping[str, Any], source: str, output: str) -> None:
    """Raises `BadData` (``contract.wiring``) where the program was run and computes otherwise."""
    found = claims.get("wiring", {})
    if found.get("holds", True) is not False:
        return
    raise BadData(
        "contract.wiring",
        f"the graph of `{source}` does not compute what its config.json says it is: over "
        f"{found['tokens']} tokens the median difference is {found['median_logit_difference']:.3g} "
        f"of the largest logit ({found['limit']:g} is allowed), and the first choice is the same "
        f"at {found['top1_agreement']:.0%}; `{output}` was not written",
        "is it the config of this very export? Compare its activation, norm epsilon, rotary base "
        "and scaling, and numbers of heads. --no-probe converts by the config, whatever the graph "
        "computes",
    )
