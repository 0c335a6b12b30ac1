"""Random models that are spelled like the released ones, and what shapes there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitnet_jax.core.errors import UsageError
from bitnet_jax.core.paths import check_output
from bitnet_jax.export.model import describe, write_model
from bitnet_jax.export.profiles import DEFAULT, profile_of
from bitnet_jax.export.stablehlo import write_folder
from bitnet_jax.formats.checkpoint import Checkpoint
from bitnet_jax.formats.create import DEFECTS, save_created
from bitnet_jax.formats.create import create as make
from bitnet_jax.formats.deliver import delivered
from bitnet_jax.formats.native import choose_encoding
from bitnet_jax.formats.receipts import check_receipt, stale_receipt
from bitnet_jax.formats.save import FORMATS, Saved, check_kind, format_of
from bitnet_jax.models.families import every_family
from bitnet_jax.stores.address import require_local


def create(
    shape: str,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    encoding: str | None = None,
    layers: int | None = None,
    vocab_size: int | None = None,
    seed: int = 0,
    defects: Sequence[str] = (),
    force: bool = False,
    offline: bool | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Writes a random model of a named shape; see `formats.create`.

    Raises:
      UsageError: an unknown shape, defect or format, or more than one defect.
      CannotCreate: the output exists, or the receipt of a conversion to it.
    """
    if len(defects) > 1:
        raise UsageError(
            "create.defects",
            f"{len(defects)} defects in one model: {', '.join(defects)}",
            "plant one at a time, so that what finds it is known to",
        )
    name = format_of(Path(output), format)
    lowered = FORMATS[name].lowered
    if lowered:
        require_local(output, "what an export writes", "write it here, and upload all of it")
    checkpoint = make(
        shape,
        seed=seed,
        layers=layers,
        vocab_size=vocab_size,
        defect=defects[0] if defects else None,
    )
    reach: dict[str, Any] = {"offline": offline, "progress": progress}
    with delivered(output, format=format, force=force, **reach) as delivery:
        path = delivery.path
        stale = stale_receipt(path, format)
        if stale is not None:
            check_output(path, force=force)  # of the two, the one that was asked for
            check_receipt(path, format, force=force)

        def forget(*written: Any) -> None:
            # Killed from here on, the old model may lack a receipt; the new one never has it.
            if stale is not None:
                stale.unlink(missing_ok=True)

        if lowered:
            saved = _LOWERED[name](checkpoint, path, encoding, force, forget)
        else:
            saved = save_created(
                checkpoint, path, format=name, encoding=encoding, force=force, prove=forget
            )
    return {
        "shape": shape,
        "seed": seed,
        "layers": checkpoint.spec.num_layers,
        "defects": list(defects),
        "format": saved.format,
        "encoding": saved.encoding,
        "outputs": [delivery.named(file) for file in saved.outputs],
        "warnings": list(saved.warnings),
    }


def _save_onnx(
    checkpoint: Checkpoint,
    path: Path,
    encoding: str | None,
    force: bool,
    prove: Callable[..., None],
) -> Saved:
    """As `save_created`, in a format that is written from a model's program."""
    profile = profile_of(encoding or DEFAULT)
    described = describe(checkpoint)
    files = write_model(checkpoint, described, profile, path, force=force, prove=prove)
    return Saved(path, files, "onnx", profile.name)


def _save_stablehlo(
    checkpoint: Checkpoint,
    path: Path,
    encoding: str | None,
    force: bool,
    prove: Callable[..., None],
) -> Saved:
    check_kind(path, directory=True)
    chosen = choose_encoding(checkpoint, encoding)
    files = write_folder(checkpoint, path, chosen, force=force, prove=prove)
    return Saved(path, tuple(files), "stablehlo", chosen)


_LOWERED = {"onnx": _save_onnx, "stablehlo": _save_stablehlo}


def list_architectures() -> dict[str, Any]:
    """The families, named shapes, formats and plantable defects that there are.

    Those of plugins, too: files that were loaded, packages that are installed. What is wrong
    with one stands in `warnings`.
    """
    listed, problems = every_family()
    return {
        "families": [
            {
                "family": row.family.name,
                "source": row.source,
                "architecture": row.family.huggingface and row.family.huggingface.architecture,
                "extra": sorted(row.family.extra),
            }
            for row in sorted(listed, key=lambda row: row.family.name)
        ],
        "shapes": [
            {
                "shape": name,
                "family": spec.family,
                "hidden_size": spec.hidden_size,
                "intermediate_size": spec.intermediate_size,
                "layers": spec.num_layers,
                "heads": spec.num_heads,
                "kv_heads": spec.num_kv_heads,
                "vocab_size": spec.vocab_size,
            }
            for row in listed
            for name, spec in row.family.shapes.items()
        ],
        "formats": {name: list(row.encodings) for name, row in FORMATS.items()},
        "defects": dict(DEFECTS),
        "warnings": problems,
    }
