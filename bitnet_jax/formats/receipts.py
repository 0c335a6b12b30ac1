"""The receipt of a conversion: where it is kept, and which one is no longer true.

Knows names only: what stands in a receipt is its writer's.
"""

from __future__ import annotations

import json
from pathlib import Path

from bitnet_jax.core.errors import UsageError
from bitnet_jax.core.outputs import check_output
from bitnet_jax.formats.save import FORMATS, format_of

IN_FOLDER = "receipt.json"


def receipt_path(output: Path, format: str | None = None) -> Path:
    """Where the record of a conversion is kept: in the folder written, or beside the file.

    No two outputs share one: `m.bitnet` has `m.receipt.json`; a file of any other name keeps
    the whole of it, `m.v2` has `m.v2-receipt.json`.

    Raises:
      UsageError: `output` has the name of a receipt itself: another model's could replace it.
    """
    if output.name.lower().endswith((".receipt.json", "-receipt.json")):
        raise UsageError(
            "receipt.name",
            f"`{output}` is the name of a receipt, not of a model",
            "choose another output: model.bitnet",
        )
    if FORMATS[format_of(output, format)].directory:
        return output / IN_FOLDER
    if output.suffix == ".bitnet":
        return output.with_suffix(".receipt.json")
    return output.with_name(f"{output.name}-receipt.json")


def stale_receipt(output: Path, format: str | None = None) -> Path | None:
    """The receipt beside `output` that would be wrong once something else is written there.

    None where what stands there is no receipt of ours for this file, or goes with the folder
    that it is in.
    """
    receipt = receipt_path(output, format)
    if receipt.is_relative_to(output):
        return None
    try:
        record = json.loads(receipt.read_bytes())
        names = [Path(name).name for name in record["outputs"] if record["digest_after"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return receipt if output.name in names else None


def check_receipt(output: Path, format: str | None = None, *, force: bool) -> bool:
    """Checks that the receipt beside `output` may be written; returns whether it may replace one.

    One of ours whose file is not there was left by a run that was killed before the file had its
    place: it may always be replaced.

    Raises:
      CannotCreate: there is one, and `force` is false.
    """
    receipt = receipt_path(output, format)
    replaces = force or (not output.exists() and stale_receipt(output, format) == receipt)
    check_output(receipt, force=replaces)
    return replaces
